#include "router/router.h"

#include <algorithm>
#include <random>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "router/features.h"
#include "router/upstream_body.h"

namespace hostler {
namespace {

Decision Named(std::string target, std::string reason) {
  Decision decision;
  decision.target = std::move(target);
  decision.reason = std::move(reason);
  return decision;
}

}  // namespace

const CandidateReport* Decision::Find(std::string_view name) const {
  for (const CandidateReport& candidate : candidates) {
    if (candidate.target == name) return &candidate;
  }
  return nullptr;
}

absl::Status Router::AddTarget(std::unique_ptr<Target> target) {
  if (Find(target->name()) != nullptr || virtual_models_.contains(target->name())) {
    return absl::AlreadyExistsError(
        fmt::format("there is already a model named \"{}\"", target->name()));
  }
  targets_.push_back(std::move(target));
  speeds_.push_back(std::make_unique<SpeedEstimate>());
  return absl::OkStatus();
}

absl::Status Router::AddVirtualModel(const std::string& name, std::unique_ptr<RoutingPolicy> policy,
                                     const VirtualModelOptions& options) {
  VirtualModel model{std::move(policy), options};
  if (Find(name) != nullptr || !virtual_models_.try_emplace(name, std::move(model)).second) {
    return absl::AlreadyExistsError(fmt::format("there is already a model named \"{}\"", name));
  }
  return absl::OkStatus();
}

absl::StatusOr<Decision> Router::Route(const GenerateRequest& request) const {
  if (request.model.empty() && !targets_.empty()) {
    return Named(targets_.front()->name(), "default");
  }
  if (Find(request.model) != nullptr) return Named(request.model, "explicit");
  const auto found = virtual_models_.find(request.model);
  if (found == virtual_models_.end()) {
    std::vector<std::string> names;
    for (const auto& target : targets_) names.push_back(target->name());
    for (const auto& [name, model] : virtual_models_) names.push_back(name);
    // A client's name may be as long as its request.
    return absl::NotFoundError(fmt::format("there is no model \"{:.100}\"; there is: {}",
                                           request.model, fmt::join(names, ", ")));
  }
  std::string storage;
  std::vector<float> embedding;
  RouteFeatures features = ExtractFeatures(request, &storage);
  found->second.policy->Prepare(&features, &embedding);
  std::vector<TargetSnapshot> snapshots;
  snapshots.reserve(targets_.size());
  for (size_t i = 0; i < targets_.size(); ++i) {
    snapshots.push_back(targets_[i]->snapshot());
    snapshots.back().speed = speeds_[i]->speed();
  }
  absl::StatusOr<Decision> decided = found->second.policy->Decide(features, snapshots);
  // What an engine says against it tells more.
  if (absl::IsFailedPrecondition(decided.status()) && features.upstreams_only) {
    return request.original->engine_error;
  }
  HOSTLER_ASSIGN_OR_RETURN(Decision decision, std::move(decided));
  decision.virtual_model = found->first;
  if (decision.policy.empty()) decision.policy = found->second.policy->name();
  AddExtras(found->second.options, features.seed, &decision);
  return decision;
}

// What is no policy's matter: a shadow, a hedge.
void Router::AddExtras(const VirtualModelOptions& options, uint64_t seed,
                       Decision* decision) const {
  if (decision->fallbacks.empty()) return;
  if (options.hedge.has_value() && !decision->judge.has_value()) {
    decision->hedge_after_s = options.hedge->after_s.has_value()
                                  ? *options.hedge->after_s
                                  : SpeedOf(decision->target)->SlowWait();
  }
  if (!(options.shadow.share > 0)) return;
  // Not the numbers that the policy draws from the same seed.
  std::mt19937_64 random(seed ^ 0x5bd1e9955bd1e995);
  if (std::uniform_real_distribution<double>()(random) >= options.shadow.share) return;
  const std::vector<std::string>& others = decision->fallbacks;
  if (options.shadow.target.empty()) {
    decision->shadow = others[random() % others.size()];
  } else if (std::find(others.begin(), others.end(), options.shadow.target) != others.end()) {
    decision->shadow = options.shadow.target;
  }
}

SpeedEstimate* Router::SpeedOf(const std::string& target) const {
  for (size_t i = 0; i < targets_.size(); ++i) {
    if (targets_[i]->name() == target) return speeds_[i].get();
  }
  return nullptr;
}

void Router::Observe(const std::string& target, int n, const Usage& usage, const Timings& timings) {
  if (SpeedEstimate* speed = SpeedOf(target)) speed->Observe(n, usage, timings);
}

void Router::ObserveWait(const std::string& target, double seconds) const {
  if (SpeedEstimate* speed = SpeedOf(target)) speed->ObserveWait(seconds);
}

void Router::Started(const Decision& decision) const {
  if (RoutingPolicy* policy = FindPolicy(decision.virtual_model)) policy->Started(decision);
}

void Router::Finished(const Decision& decision, const RouteOutcome& outcome) const {
  if (RoutingPolicy* policy = FindPolicy(decision.virtual_model)) {
    policy->Finished(decision, outcome);
  }
}

RoutingPolicy* Router::FindPolicy(const std::string& virtual_model) const {
  const auto found = virtual_models_.find(virtual_model);
  return found == virtual_models_.end() ? nullptr : found->second.policy.get();
}

Target* Router::Find(const std::string& name) const {
  for (const auto& target : targets_) {
    if (target->name() == name) return target.get();
  }
  return nullptr;
}

std::vector<std::string> Router::virtual_models() const {
  std::vector<std::string> names;
  for (const auto& [name, model] : virtual_models_) names.push_back(name);
  return names;
}

}  // namespace hostler
