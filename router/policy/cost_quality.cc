#include "fmt/format.h"
#include "router/policy/chooser.h"
#include "router/policy/ranking.h"

namespace hostler {
namespace {

class CostQuality : public Chooser {
 public:
  explicit CostQuality(std::optional<double> value_usd) : value_usd_(value_usd) {}

  std::string_view name() const override { return "cost_quality"; }

  Choice Choose(const RouteFeatures&, const Limits& limits,
                std::span<const Candidate> candidates) override {
    const double deadline = limits.deadline_s.value_or(INFINITY);
    const double floor = limits.min_quality.value_or(0);
    const auto any = [&](auto holds) {
      return std::any_of(candidates.begin(), candidates.end(), holds);
    };
    const auto in_time = [&](const Candidate& c) { return c.latency_s <= deadline; };
    const bool some_in_time = any(in_time);
    const auto good = [&](const Candidate& c) { return c.quality >= floor; };
    const bool some_good =
        any([&](const Candidate& c) { return good(c) && (!some_in_time || in_time(c)); });

    Choice choice;
    // The bounds count before all else: a candidate that keeps one more of them ranks above.
    choice.order = RankBy(candidates, [&](const Candidate& c) {
      return Bounds(in_time(c), good(c)) + Squash(Worth(c, limits, some_good));
    });
    const Candidate& best = candidates[choice.order.front()];
    const std::string of = fmt::format("of {}", candidates.size());
    if (!some_in_time) {
      choice.rule = "late";
      choice.reason = fmt::format("none within {:.3g} s, quality {:.2f} in {:.3g} s {}", deadline,
                                  best.quality, best.latency_s, of);
    } else if (limits.min_quality.has_value() && !some_good) {
      choice.rule = "below_floor";
      choice.reason =
          fmt::format("none reaches quality {:.2f}, best {} with {:.2f}", floor, of, best.quality);
    } else if (value_usd_.has_value()) {
      choice.rule = "value";
      choice.reason =
          fmt::format("most worth {}, quality {:.2f} for ${:.3g}", of, best.quality, best.cost_usd);
    } else if (limits.min_quality.has_value()) {
      choice.rule = "floor";
      choice.reason = fmt::format("cheapest {} with quality {:.2f} >= {:.2f}, ${:.3g}", of,
                                  best.quality, floor, best.cost_usd);
    } else {
      choice.rule = limits.max_cost.has_value() ? "best_within_cost" : "best";
      choice.reason =
          fmt::format("best {}, quality {:.2f} for ${:.3g}", of, best.quality, best.cost_usd);
    }
    return choice;
  }

 private:
  static double Bounds(bool in_time, bool good) {
    return (in_time ? 4.0 : 0.0) + (good ? 2.0 : 0.0);
  }

  // Any number into (0, 1), order kept.
  static double Squash(double worth) { return 0.5 + worth / (2 * (1 + std::abs(worth))); }

  double Worth(const Candidate& c, const Limits& limits, bool some_good) const {
    if (limits.min_quality.has_value() && !some_good) return c.quality;
    if (value_usd_.has_value())
      return *value_usd_ > 0 ? c.quality - c.cost_usd / *value_usd_ : -c.cost_usd;
    if (limits.min_quality.has_value()) return -c.cost_usd;
    return c.quality;
  }

  const std::optional<double> value_usd_;
};

}  // namespace

std::unique_ptr<Chooser> NewCostQuality(std::optional<double> value_usd) {
  return std::make_unique<CostQuality>(value_usd);
}

}  // namespace hostler
