// Candidates for tests of choosers.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "router/policy/chooser.h"

namespace hostler {

// Holds the snapshots that its candidates point to.
class TestCandidates {
 public:
  Candidate& Add(const std::string& name, double quality, double cost_usd, double latency_s = 0) {
    snapshots_.emplace_back();
    snapshots_.back().name = name;
    snapshots_.back().local = true;
    list.push_back({.target = &snapshots_.back(),
                    .index = int(list.size()),
                    .quality = quality,
                    .cost_usd = cost_usd,
                    .latency_s = latency_s});
    return list.back();
  }

  std::vector<Candidate> list;

 private:
  std::deque<TargetSnapshot> snapshots_;
};

}  // namespace hostler
