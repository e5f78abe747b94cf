// StepSample: what a step was and what it took, for those who decide about the
// next ones.
#pragma once

#include <cstdint>

namespace hostler {

struct StepSample {
  int decodes = 0;      // sequences that generated
  int prompt_rows = 0;  // rows of prompts
  double seconds = 0;
  double stall_seconds = 0;  // of them, waiting for experts
  double longest_wait = 0;   // seconds that a sequence which could decode has stood, at the end
  uint64_t read_bytes = 0;
  uint64_t cache_bytes = 0;  // what the expert cache may hold
};

}  // namespace hostler
