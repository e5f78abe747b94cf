// From a configuration and the models' headers to what each engine is given.
// Nothing is loaded.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_info.h"
#include "router/target.h"
#include "server/config.h"

namespace hostler {

struct ModelDeployment {
  std::string name;
  std::string path;
  EngineOptions options;   // with this model's share of the memory, and never "auto" as device
  std::string device_why;  // what settled "auto"; "" where nothing had to be
  Price price;
};

struct Deployment {
  std::vector<ModelDeployment> models;
  std::vector<VirtualModelConfig> virtual_models;
};

// The memory budget (memory, or 80% of what there is) is the whole daemon's.
// What models name for themselves comes off first; the rest is divided in
// proportion to the files' sizes; kv_memory is as well, expert_memory in
// proportion to the experts' sizes. device_memory (or 90% of what is free) likewise,
// for the models on one GPU.
//
// A model without a price costs 0.1 USD a million tokens for each billion of
// its active parameters. With several models and no virtual_models configured
// there is an "auto" whose cheapest model takes prompts up to
// auto_max_prompt_tokens and whose others take any. Upstreams count as models
// there if they have a price.
//
// `infos` are those of config.models, in order. Errors: InvalidArgument when
// models ask for more than the budget or would write one file; Unimplemented for
// a model that cannot be served, with the reasons; CheckDevice's and ChooseDevice's.
absl::StatusOr<Deployment> PlanDeployment(const ServeConfig& config,
                                          const std::vector<ModelInfo>& infos);

}  // namespace hostler
