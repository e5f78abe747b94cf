#include <algorithm>
#include <utility>

#include "fmt/format.h"
#include "router/policy/chooser.h"

namespace hostler {
namespace {

constexpr double kMinSaving = 0.5;

class Affinity : public Chooser {
 public:
  Affinity(std::unique_ptr<Chooser> inner, double min_gain)
      : inner_(std::move(inner)), min_gain_(min_gain) {}

  std::string_view name() const override { return inner_->name(); }

  Choice Choose(const RouteFeatures& features, const Limits& limits,
                std::span<const Candidate> candidates) override {
    Choice choice = inner_->Choose(features, limits, candidates);
    if (choice.judge.has_value()) return choice;
    const auto home = std::max_element(
        candidates.begin(), candidates.end(),
        [](const auto& a, const auto& b) { return a.cached_tokens < b.cached_tokens; });
    const Candidate& chosen = candidates[choice.order.front()];
    if (&chosen == &*home || home->cached_tokens <= chosen.cached_tokens ||
        home->cached_tokens * 2 < features.prompt_tokens) {
      return choice;
    }
    const bool late = limits.deadline_s.has_value() && home->latency_s > *limits.deadline_s;
    const bool poor = limits.min_quality.has_value() && home->quality < *limits.min_quality;
    const bool better = chosen.quality - home->quality > min_gain_;
    const bool cheaper = chosen.cost_usd < kMinSaving * home->cost_usd;
    if (late || poor || better || cheaper) return choice;
    const int place = int(home - candidates.begin());
    std::erase(choice.order, place);
    choice.order.insert(choice.order.begin(), place);
    choice.reason =
        fmt::format("stays where {} prompt tokens are cached; {} gains {:.2f} quality",
                    home->cached_tokens, chosen.target->name, chosen.quality - home->quality);
    choice.rule = "affinity";
    return choice;
  }

  void Learn(const std::vector<double>& context, int index, double score) override {
    inner_->Learn(context, index, score);
  }

  nlohmann::ordered_json Learned(int index) override { return inner_->Learned(index); }

  absl::Status Restore(int index, const nlohmann::ordered_json& learned) override {
    return inner_->Restore(index, learned);
  }

 private:
  const std::unique_ptr<Chooser> inner_;
  const double min_gain_;
};

}  // namespace

std::unique_ptr<Chooser> NewAffinity(std::unique_ptr<Chooser> inner, double min_gain) {
  return std::make_unique<Affinity>(std::move(inner), min_gain);
}

}  // namespace hostler
