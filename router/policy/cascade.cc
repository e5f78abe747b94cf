#include "fmt/format.h"
#include "router/policy/chooser.h"
#include "router/policy/ranking.h"

namespace hostler {
namespace {

class Cascade : public Chooser {
 public:
  explicit Cascade(CascadeJudge judge) : judge_(judge) {}

  std::string_view name() const override { return "cascade"; }

  Choice Choose(const RouteFeatures& features, const Limits& limits,
                std::span<const Candidate> candidates) override {
    Choice choice;
    choice.order = RankByQuality(candidates);
    // Its own logprobs are what an answer is judged by: upstreams pass theirs on
    // as they come. Of several sequences none speaks for the others.
    const double floor = limits.min_quality.value_or(0);
    int first = -1;
    for (int i = 0; i < int(candidates.size()); ++i) {
      if (!candidates[i].target->local || candidates[i].quality < floor) continue;
      if (first < 0 || candidates[i].cost_usd < candidates[first].cost_usd) first = i;
    }
    const int best = choice.order.front();
    if (first < 0 || first == best || features.n > 1) {
      choice.rule = "direct";
      choice.reason = fmt::format("best of {} at once, quality {:.2f}", candidates.size(),
                                  candidates[best].quality);
      return choice;
    }
    std::erase(choice.order, first);
    choice.order.insert(choice.order.begin(), first);
    choice.judge = judge_;
    choice.rule = "tried";
    choice.reason =
        fmt::format("cheapest of {} first, {} if its mean logprob is below {:.2f}",
                    candidates.size(), candidates[best].target->name, judge_.min_logprob);
    return choice;
  }

 private:
  const CascadeJudge judge_;
};

}  // namespace

std::unique_ptr<Chooser> NewCascade(CascadeJudge judge) { return std::make_unique<Cascade>(judge); }

}  // namespace hostler
