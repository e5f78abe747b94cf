#include <mutex>

#include "fmt/format.h"
#include "router/policy/chooser.h"
#include "router/policy/ranking.h"

namespace hostler {
namespace {

// Shares of the deadline. What a snapshot does not show (requests decided on at
// the same moment, answers longer than expected) has to fit in between.
constexpr double kShutAbove = 0.7;
constexpr double kOpenBelow = 0.4;

class BestEffort : public Chooser {
 public:
  std::string_view name() const override { return "best_effort"; }

  Choice Choose(const RouteFeatures&, const Limits& limits,
                std::span<const Candidate> candidates) override {
    Choice choice;
    choice.order = RankByQuality(candidates);
    const Candidate& best = candidates[choice.order.front()];
    if (!limits.deadline_s.has_value()) {
      choice.rule = "best";
      choice.reason = fmt::format("best of {}, no deadline", candidates.size());
      return choice;
    }
    const double deadline = *limits.deadline_s;
    std::vector<bool> open(candidates.size());
    {
      std::lock_guard lock(mutex_);
      for (size_t i = 0; i < candidates.size(); ++i) open[i] = Update(candidates[i], deadline);
    }
    const bool any_open = std::find(open.begin(), open.end(), true) != open.end();
    if (any_open) {
      std::stable_partition(choice.order.begin(), choice.order.end(),
                            [&](int i) { return open[i]; });
    } else {
      choice.order = RankBy(candidates, [](const Candidate& c) { return -c.latency_s; });
    }
    const Candidate& chosen = candidates[choice.order.front()];
    const std::string time = fmt::format("{:.3g} s of {:.3g} s", chosen.latency_s, deadline);
    if (!any_open) {
      choice.rule = "late";
      choice.reason = fmt::format("fastest of {}, {}", candidates.size(), time);
    } else if (&chosen == &best) {
      choice.rule = "best";
      choice.reason = fmt::format("best of {}, {}", candidates.size(), time);
    } else {
      choice.rule = "degraded";
      choice.reason = fmt::format("best of {} in time, {}; {} would take {:.3g} s",
                                  candidates.size(), time, best.target->name, best.latency_s);
    }
    return choice;
  }

 private:
  // REQUIRES: mutex_ is held.
  bool Update(const Candidate& candidate, double deadline) {
    const size_t index = size_t(candidate.index);
    if (index >= shut_.size()) shut_.resize(index + 1);
    const double bound = (shut_[index] ? kOpenBelow : kShutAbove) * deadline;
    shut_[index] = candidate.latency_s > bound;
    return !shut_[index];
  }

  std::mutex mutex_;
  std::vector<bool> shut_;  // by Candidate::index; guarded by mutex_
};

}  // namespace

std::unique_ptr<Chooser> NewBestEffort() { return std::make_unique<BestEffort>(); }

}  // namespace hostler
