// Orders of candidates, for choosers.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "router/policy/chooser.h"

namespace hostler {

// Their places, the highest score first; equal ones by cost, then as they came.
template <typename Score>
std::vector<int> RankBy(std::span<const Candidate> candidates, Score score) {
  std::vector<int> order(candidates.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    const double score_a = score(candidates[a]), score_b = score(candidates[b]);
    if (score_a != score_b) return score_a > score_b;
    return candidates[a].cost_usd < candidates[b].cost_usd;
  });
  return order;
}

inline std::vector<int> RankByQuality(std::span<const Candidate> candidates) {
  return RankBy(candidates, [](const Candidate& c) { return c.quality; });
}

}  // namespace hostler
