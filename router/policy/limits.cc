#include "router/policy/limits.h"

#include <algorithm>

namespace hostler {
namespace {

std::optional<double> Bound(const std::optional<double>& a, const std::optional<double>& b,
                            bool low_is_strict) {
  if (!a.has_value() || !b.has_value()) return a.has_value() ? a : b;
  return low_is_strict ? std::min(*a, *b) : std::max(*a, *b);
}

}  // namespace

Limits Stricter(const Limits& limits, const RouteWish& wish) {
  return {.min_quality = Bound(limits.min_quality, wish.min_quality, false),
          .max_cost = Bound(limits.max_cost, wish.max_cost, true),
          .deadline_s = Bound(limits.deadline_s, wish.deadline_s, true)};
}

const Candidate& Cheapest(std::span<const Candidate> candidates) {
  return *std::min_element(
      candidates.begin(), candidates.end(),
      [](const Candidate& a, const Candidate& b) { return a.cost_usd < b.cost_usd; });
}

double LeaveOutAbove(double limit, std::vector<Candidate>* candidates) {
  const double kept = std::max(limit, Cheapest(*candidates).cost_usd);
  std::erase_if(*candidates, [&](const Candidate& c) { return c.cost_usd > kept; });
  return kept;
}

}  // namespace hostler
