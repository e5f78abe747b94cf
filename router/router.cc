#include "router/router.h"

#include <utility>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "router/features.h"

namespace hostler {

absl::Status Router::AddTarget(std::unique_ptr<Target> target) {
  if (Find(target->name()) != nullptr || virtual_models_.contains(target->name())) {
    return absl::AlreadyExistsError(
        fmt::format("there is already a model named \"{}\"", target->name()));
  }
  targets_.push_back(std::move(target));
  return absl::OkStatus();
}

absl::Status Router::AddVirtualModel(const std::string& name,
                                     std::unique_ptr<RoutingPolicy> policy) {
  if (Find(name) != nullptr || !virtual_models_.try_emplace(name, std::move(policy)).second) {
    return absl::AlreadyExistsError(fmt::format("there is already a model named \"{}\"", name));
  }
  return absl::OkStatus();
}

absl::StatusOr<Decision> Router::Route(const GenerateRequest& request) const {
  if (request.model.empty() && !targets_.empty()) {
    return Decision{targets_.front()->name(), "default"};
  }
  if (Find(request.model) != nullptr) return Decision{request.model, "explicit"};
  const auto found = virtual_models_.find(request.model);
  if (found == virtual_models_.end()) {
    std::vector<std::string> names;
    for (const auto& target : targets_) names.push_back(target->name());
    for (const auto& [name, policy] : virtual_models_) names.push_back(name);
    // A client's name may be as long as its request.
    return absl::NotFoundError(fmt::format("there is no model \"{:.100}\"; there is: {}",
                                           request.model, fmt::join(names, ", ")));
  }
  std::vector<TargetSnapshot> snapshots;
  snapshots.reserve(targets_.size());
  for (const auto& target : targets_) snapshots.push_back(target->snapshot());
  return found->second->Decide(ExtractFeatures(request), snapshots);
}

Target* Router::Find(const std::string& name) const {
  for (const auto& target : targets_) {
    if (target->name() == name) return target.get();
  }
  return nullptr;
}

std::vector<std::string> Router::virtual_models() const {
  std::vector<std::string> names;
  for (const auto& [name, policy] : virtual_models_) names.push_back(name);
  return names;
}

}  // namespace hostler
