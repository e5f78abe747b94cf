// Router: model names → targets, explicit ones and virtual ones.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "router/observed.h"
#include "router/policy.h"
#include "router/target.h"
#include "router/virtual_model.h"

namespace hostler {

// Built at start, immutable while serving; thread-safe then.
class Router {
 public:
  // Errors: AlreadyExists for a name used twice.
  absl::Status AddTarget(std::unique_ptr<Target> target);
  absl::Status AddVirtualModel(const std::string& name, std::unique_ptr<RoutingPolicy> policy,
                               const VirtualModelOptions& options = {});

  // How a request to `target` went that ended well.
  void Observe(const std::string& target, int n, const Usage& usage, const Timings& timings);
  // See SpeedEstimate.
  void ObserveWait(const std::string& target, double seconds) const;
  // Tell the policy whose decision it is.
  void Started(const Decision& decision) const;
  void Finished(const Decision& decision, const RouteOutcome& outcome) const;

  // Resolves request.model: "" is the first target; a target's name passes
  // through; a virtual model asks its policy. Errors: NotFound naming the
  // model and listing those there are; the policy's.
  absl::StatusOr<Decision> Route(const GenerateRequest& request) const;

  Target* Find(const std::string& name) const;  // null: no such target
  const std::vector<std::unique_ptr<Target>>& targets() const { return targets_; }
  // Null: no such virtual model.
  RoutingPolicy* FindPolicy(const std::string& virtual_model) const;
  std::vector<std::string> virtual_models() const;
  // REQUIRES: it is one.
  const VirtualModelOptions& options(const std::string& virtual_model) const {
    return virtual_models_.at(virtual_model).options;
  }

 private:
  struct VirtualModel {
    std::unique_ptr<RoutingPolicy> policy;
    VirtualModelOptions options;
  };

  SpeedEstimate* SpeedOf(const std::string& target) const;
  void AddExtras(const VirtualModelOptions& options, uint64_t seed, Decision* decision) const;

  std::vector<std::unique_ptr<Target>> targets_;
  std::vector<std::unique_ptr<SpeedEstimate>> speeds_;  // of targets_
  std::map<std::string, VirtualModel> virtual_models_;
};

}  // namespace hostler
