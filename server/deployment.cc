#include "server/deployment.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "engine/engine/device.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace hostler {
namespace {

constexpr double kUsdPerActiveParameter = 0.1 / 1e9;
constexpr char kDefaultVirtualModel[] = "auto";

uint64_t FileBytes(const ModelInfo& info) { return info.file_bytes; }

uint64_t AllExpertBytes(const ModelInfo& info) {
  return info.expert_bytes * static_cast<uint64_t>(info.experts) * info.moe_layers;
}

// One of the sizes that all models share, and what their shares are in
// proportion to.
struct SharedSize {
  const char* key;
  uint64_t EngineOptions::*bytes;
  uint64_t (*weight)(const ModelInfo& info);
};

constexpr SharedSize kSharedSizes[] = {
    {"memory", &EngineOptions::memory_bytes, FileBytes},
    {"expert_memory", &EngineOptions::expert_memory_bytes, AllExpertBytes},
    {"kv_memory", &EngineOptions::kv_memory_bytes, FileBytes},
};

uint64_t Fraction(uint64_t total, uint64_t part, uint64_t whole) {
  return static_cast<uint64_t>(static_cast<double>(total) * static_cast<double>(part) /
                               static_cast<double>(std::max<uint64_t>(whole, 1)));
}

// Divides `total` over those of the models in `sharers` that do not name their own share.
absl::Status Divide(const ServeConfig& config, const std::vector<ModelInfo>& infos,
                    const SharedSize& size, uint64_t total, const std::vector<size_t>& sharers,
                    std::vector<ModelDeployment>* models) {
  uint64_t named = 0, weights = 0;
  bool any_shares = false;
  for (const size_t i : sharers) {
    if (config.models[i].settings.contains(size.key)) {
      named += (*models)[i].options.*size.bytes;
    } else {
      any_shares = true;
      weights += size.weight(infos[i]);
    }
  }
  if (named > total || (any_shares && named == total)) {
    return absl::InvalidArgumentError(
        fmt::format("models name {} of {} for themselves, but all models together have {}",
                    FormatBytes(named), size.key, FormatBytes(total)));
  }
  for (const size_t i : sharers) {
    if (config.models[i].settings.contains(size.key)) continue;
    (*models)[i].options.*size.bytes =
        sharers.size() == 1 ? total : Fraction(total - named, size.weight(infos[i]), weights);
  }
  return absl::OkStatus();
}

// The GPU's memory between the models on each.
absl::Status DivideDevices(const ServeConfig& config, const std::vector<ModelInfo>& infos,
                           std::vector<ModelDeployment>* models) {
  constexpr SharedSize kDeviceMemory = {"device_memory", &EngineOptions::device_memory_bytes,
                                        FileBytes};
  std::map<int, std::vector<size_t>> by_gpu;
  for (size_t i = 0; i < models->size(); ++i) {
    HOSTLER_ASSIGN_OR_RETURN(const DeviceName name, ParseDeviceName((*models)[i].options.device));
    if (name.kind != DeviceName::Kind::kCpu) by_gpu[name.index].push_back(i);
  }
  for (const auto& [index, sharers] : by_gpu) {
    uint64_t total = config.engine.device_memory_bytes;
    if (total == 0) {
      // Left to the engine, which asks again.
      if (sharers.size() == 1) continue;
      HOSTLER_ASSIGN_OR_RETURN(const std::optional<Gpu> gpu,
                               FindGpu((*models)[sharers[0]].options.device));
      total = gpu->free_bytes / 10 * 9;
    }
    HOSTLER_RETURN_IF_ERROR(Divide(config, infos, kDeviceMemory, total, sharers, models));
  }
  return absl::OkStatus();
}

absl::Status SettleDevice(ModelDeployment* model) {
  HOSTLER_RETURN_IF_ERROR(CheckDevice(model->options.device));
  HOSTLER_ASSIGN_OR_RETURN(DeviceChoice choice, ChooseDevice(model->path, model->options));
  model->options.device = std::move(choice.device);
  model->device_why = std::move(choice.why);
  return absl::OkStatus();
}

absl::StatusOr<ModelDeployment> PlanModel(const ServeConfig& config, const ModelConfig& model,
                                          const ModelInfo& info) {
  if (!info.unsupported.empty()) {
    return absl::UnimplementedError(
        fmt::format("{} cannot be served: {}", model.path, fmt::join(info.unsupported, "; ")));
  }
  ModelDeployment planned;
  planned.name = model.name;
  planned.path = model.path;
  planned.options = config.engine;
  for (const Setting& setting : ModelSettings(&planned.options)) {
    const auto own = model.settings.find(setting.key);
    if (own != model.settings.end()) HOSTLER_RETURN_IF_ERROR(setting.set(own->second));
  }
  const double price = static_cast<double>(info.active_parameters) * kUsdPerActiveParameter;
  // What a model costs is its energy, where that can be told.
  const bool metered = model.watts > 0 && config.energy_price > 0;
  planned.price = model.price.value_or(metered ? Price{} : Price{price, price});
  if (metered) planned.price.second = model.watts / 1000 * config.energy_price / 3600;
  return planned;
}

// Errors: InvalidArgument for a file that two models would write.
absl::Status CheckFiles(const std::vector<ModelDeployment>& models,
                        const std::vector<ModelInfo>& infos) {
  std::map<std::string, std::string> writers;
  for (size_t i = 0; i < models.size(); ++i) {
    if (infos[i].moe_layers == 0) continue;
    const EngineOptions& options = models[i].options;
    for (const std::string& file : {options.expert_popularity, options.expert_trace}) {
      if (file.empty() || file == "auto" || file == "off") continue;
      const auto [other, is_first] = writers.emplace(file, models[i].name);
      if (is_first) continue;
      return absl::InvalidArgumentError(
          fmt::format("{} and {} would both write {}: name a file for each of these models",
                      other->second, models[i].name, file));
    }
  }
  return absl::OkStatus();
}

// What "auto" may choose from.
struct PricedModel {
  std::string name;
  double cost = 0;  // USD per million tokens, in and out
};

std::vector<PricedModel> PricedModels(const ServeConfig& config,
                                      const std::vector<ModelDeployment>& models) {
  std::vector<PricedModel> candidates;
  for (const ModelDeployment& model : models) {
    candidates.push_back({model.name, model.price.input + model.price.output});
  }
  for (const UpstreamOptions& upstream : config.upstreams) {
    if (!upstream.price.has_value()) continue;
    candidates.push_back({upstream.name, upstream.price->input + upstream.price->output});
  }
  return candidates;
}

VirtualModelConfig DefaultVirtualModel(const std::vector<PricedModel>& candidates,
                                       int max_prompt_tokens) {
  const auto cheapest =
      std::min_element(candidates.begin(), candidates.end(),
                       [](const auto& a, const auto& b) { return a.cost < b.cost; });
  VirtualModelConfig virtual_model;
  virtual_model.name = kDefaultVirtualModel;
  for (const PricedModel& candidate : candidates) {
    virtual_model.rules.push_back(
        {candidate.name, &candidate == &*cheapest ? max_prompt_tokens : 0});
  }
  return virtual_model;
}

bool HasModel(const ServeConfig& config, const std::vector<ModelDeployment>& models,
              const std::string& name) {
  const auto has_name = [&](const auto& model) { return model.name == name; };
  return std::any_of(models.begin(), models.end(), has_name) ||
         std::any_of(config.upstreams.begin(), config.upstreams.end(), has_name);
}

}  // namespace

absl::StatusOr<Deployment> PlanDeployment(const ServeConfig& config,
                                          const std::vector<ModelInfo>& infos) {
  Deployment deployment;
  for (size_t i = 0; i < config.models.size(); ++i) {
    HOSTLER_ASSIGN_OR_RETURN(ModelDeployment model, PlanModel(config, config.models[i], infos[i]));
    deployment.models.push_back(std::move(model));
  }
  HOSTLER_RETURN_IF_ERROR(CheckFiles(deployment.models, infos));
  for (ModelDeployment& model : deployment.models) HOSTLER_RETURN_IF_ERROR(SettleDevice(&model));
  HOSTLER_RETURN_IF_ERROR(DivideDevices(config, infos, &deployment.models));
  std::vector<size_t> all(deployment.models.size());
  std::iota(all.begin(), all.end(), size_t{0});
  for (const SharedSize& size : kSharedSizes) {
    uint64_t total = config.engine.*size.bytes;
    if (total == 0 && size.bytes == &EngineOptions::memory_bytes) {
      total = UsableMemoryBytes() / 10 * 8;
    }
    // Left to each engine, within its share of the memory.
    if (total == 0) continue;
    HOSTLER_RETURN_IF_ERROR(Divide(config, infos, size, total, all, &deployment.models));
  }
  const std::vector<PricedModel> candidates = PricedModels(config, deployment.models);
  if (config.virtual_models.has_value()) {
    deployment.virtual_models = *config.virtual_models;
  } else if (candidates.size() > 1 && !HasModel(config, deployment.models, kDefaultVirtualModel)) {
    deployment.virtual_models = {DefaultVirtualModel(candidates, config.auto_max_prompt_tokens)};
  }
  return deployment;
}

}  // namespace hostler
