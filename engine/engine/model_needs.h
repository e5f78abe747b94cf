// What a model needs of memory to be served, from its sizes alone.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/compute/backend.h"
#include "engine/engine/engine.h"
#include "engine/engine/memory_plan.h"
#include "engine/engine/served_experts.h"
#include "engine/kv/layout.h"
#include "engine/model/loader.h"
#include "engine/model/model.h"

namespace hostler {

// Threads that compute: as asked, or the cores this process may use.
int ThreadsFor(const EngineOptions& options);

// NewCpuBackend's isa.
std::string KernelsFor(const EngineOptions& options);

// How an engine with `options` runs `model`. REQUIRES: max_sequences is at most
// step_tokens.
StepLimits StepLimitsFor(const Model& model, const EngineOptions& options);
KvLayout KvLayoutFor(const Model& model, const EngineOptions& options);
// `experts` are the model's; null for a dense one. `on_device`: what computes has memory of
// its own.
MemoryNeeds NeedsOf(Model& model, const ServedExperts* experts, const EngineOptions& options,
                    bool on_device);

// A step has a row at least for each sequence.
void ClampSequences(EngineOptions* options);

// A model that is not loaded, and how its memory would be divided.
struct PlannedModel {
  ModelSketch sketch;
  EngineOptions options;  // clamped
  std::optional<DeviceMemory> device;
  MemoryNeeds needs;  // whatever the budget
  DividedMemory memory;
};

// As Engine::Load would divide it. Reads headers only. REQUIRES: options.device is not
// "auto". Errors: as Engine::Load.
absl::StatusOr<PlannedModel> PlanModel(const std::string& path, const EngineOptions& options);
// The same on a device of that memory (nullopt: the host) which needs what `backend` does.
absl::StatusOr<PlannedModel> PlanModelOn(const std::string& path, const EngineOptions& options,
                                         std::unique_ptr<Backend> backend,
                                         const std::optional<DeviceMemory>& device);

}  // namespace hostler
