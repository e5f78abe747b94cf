#include "cache/policy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

namespace hostler {
namespace {

struct NamedPolicy {
  std::string_view name;
  std::unique_ptr<EvictionPolicy> (*make)(PolicyShape shape);
};

constexpr std::array kPolicies = {
    NamedPolicy{"learned", NewLearnedPolicy},
    NamedPolicy{"forward_distance", NewForwardDistancePolicy},
    NamedPolicy{"ema", [](PolicyShape shape) { return NewEmaPolicy(shape); }},
    NamedPolicy{"lfru", NewLfruPolicy},
    NamedPolicy{"lru", [](PolicyShape) { return NewLruPolicy(); }},
};

constexpr auto kNames = [] {
  std::array<std::string_view, kPolicies.size()> names;
  for (size_t i = 0; i < names.size(); ++i) names[i] = kPolicies[i].name;
  return names;
}();

// Keeps pinned experts from the sight of the policy, which so never names them.
class PinningPolicy : public EvictionPolicy {
 public:
  PinningPolicy(std::unique_ptr<EvictionPolicy> policy, std::span<const ExpertKey> pinned)
      : policy_(std::move(policy)) {
    for (const ExpertKey key : pinned) {
      if (key.layer < 0 || key.expert < 0) continue;
      if (key.layer >= pinned_.size()) pinned_.resize(key.layer + 1);
      std::vector<bool>& layer = pinned_[key.layer];
      if (key.expert >= layer.size()) layer.resize(key.expert + 1);
      layer[key.expert] = true;
    }
  }

  std::string_view name() const override { return policy_->name(); }
  void OnRequest(const ExpertRequest& request) override { policy_->OnRequest(request); }
  void OnInsert(ExpertKey key) override {
    if (!IsPinned(key)) policy_->OnInsert(key);
  }
  void OnErase(ExpertKey key) override {
    if (!IsPinned(key)) policy_->OnErase(key);
  }
  bool PickVictim(const std::function<bool(ExpertKey)>& evictable, ExpertKey* victim) override {
    return policy_->PickVictim(evictable, victim);
  }
  bool Admits(ExpertKey incoming, ExpertKey victim) const override {
    return IsPinned(incoming) || policy_->Admits(incoming, victim);
  }
  Popularity ExportPopularity() const override { return policy_->ExportPopularity(); }
  void ImportPopularity(const Popularity& popularity) override {
    policy_->ImportPopularity(popularity);
  }

 private:
  bool IsPinned(ExpertKey key) const {
    return key.layer < pinned_.size() && key.expert < pinned_[key.layer].size() &&
           pinned_[key.layer][key.expert];
  }

  const std::unique_ptr<EvictionPolicy> policy_;
  std::vector<std::vector<bool>> pinned_;  // [layer][expert]
};

}  // namespace

std::span<const std::string_view> EvictionPolicyNames() { return kNames; }

absl::StatusOr<std::unique_ptr<EvictionPolicy>> NewEvictionPolicy(std::string_view name,
                                                                  PolicyShape shape) {
  if (name == "default") name = kNames[0];
  for (const NamedPolicy& policy : kPolicies) {
    if (policy.name == name) return policy.make(shape);
  }
  return absl::InvalidArgumentError(fmt::format("no eviction policy \"{}\"; there are default, {}",
                                                name, fmt::join(kNames, ", ")));
}

std::string_view PolicyForBudget(std::string_view name, int64_t slots, const ExpertCounts& counts) {
  if (slots >= counts.all) return "lru";
  return name == "lru" && slots < counts.cycle ? kNames[0] : name;
}

std::unique_ptr<EvictionPolicy> NewPinningPolicy(std::unique_ptr<EvictionPolicy> policy,
                                                 std::span<const ExpertKey> pinned) {
  return std::make_unique<PinningPolicy>(std::move(policy), pinned);
}

}  // namespace hostler
