// Virtual models: their YAML, what of it is contradictory, and the policies made
// of it.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "router/policy.h"
#include "router/policy/chooser.h"
#include "router/policy/quality_slot.h"
#include "router/virtual_model.h"
#include "server/settings.h"
#include "server/yaml_map.h"

namespace hostler {

class PromptEmbedder;  // router/quality/prompt_embedder.h

// One entry of `virtual_models`. Unset: without that bound.
struct VirtualModelConfig {
  std::string name;
  std::set<std::string> given;  // the keys that it was told
  std::string policy = "static";
  std::vector<StaticRule> rules;  // static; none: every model takes any length

  // All other policies.
  std::vector<TargetTerms> targets;  // none: every model
  std::string router;                // the router file; "": the targets' own qualities
  std::optional<double> value;       // USD that a good answer is worth
  std::optional<double> min_quality;
  std::optional<double> max_cost;     // USD a request
  std::optional<double> deadline_ms;  // to the end of the answer
  std::optional<double> key_budget;   // USD a day for each client key
  std::optional<double> day_budget;   // USD a day for all
  std::string over_budget = "cheapest";
  double output_tokens = 256;      // of an answer, where nothing tells better
  std::optional<double> affinity;  // quality that leaving a conversation's cache must gain
  double judge_logprob = -0.7;     // cascade
  int judge_tokens = 32;
  double prior_weight = 5;  // bandit
  double explore = 0.5;
  double forget = 0.998;

  VirtualModelOptions options;  // any policy
};

// Those that say how a policy chooses among candidates.
std::vector<Setting> ChooserSettings(VirtualModelConfig* model);

// Errors: InvalidArgument with file, line and key.
absl::Status ReadVirtualModel(const YamlMap& map, VirtualModelConfig* model);

// `targets`: the names of all; `unpriced`: those that have no price. Errors:
// InvalidArgument for a target that is not there or has no price, keys that the
// policy does not use, and bounds that contradict each other.
absl::Status ValidateVirtualModel(const VirtualModelConfig& model,
                                  const std::set<std::string>& targets,
                                  const std::set<std::string>& unpriced);

// `all`: the names of all targets, in order. `embedder`: null, or it must outlive the
// policy. REQUIRES: it is valid.
std::unique_ptr<RoutingPolicy> NewPolicy(const VirtualModelConfig& model,
                                         const std::vector<std::string>& all, LoadQuality load,
                                         PromptEmbedder* embedder);

// What chooses in it, affinity included. REQUIRES: it is valid and not static.
std::unique_ptr<Chooser> NewChooser(const VirtualModelConfig& model);
Limits LimitsOf(const VirtualModelConfig& model);

// For a person: "cost_quality: least cost with quality >= 0.7, of small, large".
std::string DescribePolicy(const VirtualModelConfig& model);

}  // namespace hostler
