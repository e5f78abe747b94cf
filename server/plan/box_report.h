// What keeps this machine from its best, and what to do about it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/compute/gpu.h"

namespace hostler {

struct Finding {
  enum class Level {
    kGood,
    kHint,     // serving works, and could be faster or safer
    kProblem,  // nothing can be served so
  };
  Level level = Level::kGood;
  std::string name;    // "locked memory"
  std::string state;   // what there is
  std::string advice;  // what to do about it; "" when kGood
};

struct BoxOptions {
  std::string disk;  // a file or a folder of the file system that models lie on
  std::string root;  // in front of /proc and /sys
};

// Of what UsableGpus says: a finding for each.
std::vector<Finding> ExamineGpus(const absl::StatusOr<std::vector<Gpu>>& gpus);

std::vector<Finding> ExamineBox(const BoxOptions& options);

}  // namespace hostler
