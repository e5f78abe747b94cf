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

namespace hostler {

// Built at start, immutable while serving; thread-safe then.
class Router {
 public:
  // Errors: AlreadyExists for a name used twice.
  absl::Status AddTarget(std::unique_ptr<Target> target);
  absl::Status AddVirtualModel(const std::string& name, std::unique_ptr<RoutingPolicy> policy);

  // How a request to `target` went that ended well.
  void Observe(const std::string& target, int n, const Usage& usage, const Timings& timings);
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

 private:
  std::vector<std::unique_ptr<Target>> targets_;
  std::vector<std::unique_ptr<SpeedEstimate>> speeds_;  // of targets_
  std::map<std::string, std::unique_ptr<RoutingPolicy>> virtual_models_;
};

}  // namespace hostler
