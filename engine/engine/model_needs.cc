#include "engine/engine/model_needs.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/base/cores.h"
#include "engine/base/status.h"
#include "engine/engine/device.h"

namespace hostler {
namespace {

// Logits of as many rows as fit 64 MiB, so that scoring whole prompts is
// quick with small vocabularies and bounded with large ones.
int LogitRows(const EngineOptions& options, int vocab) {
  const int64_t rows = (int64_t{64} << 20) / (int64_t{vocab} * 4);
  return static_cast<int>(
      std::clamp<int64_t>(rows, std::min(64, options.step_tokens), options.step_tokens));
}

// Pinned memory of a GPU's backend for weights that are loaded and what operations are
// given on the host (compute/cuda/cuda_backend.cc, parameters.h).
constexpr uint64_t kPinnedBytes = uint64_t{16} << 20;

}  // namespace

int ThreadsFor(const EngineOptions& options) {
  return options.threads > 0 ? options.threads : UsableCores();
}

std::string KernelsFor(const EngineOptions& options) {
  if (options.precise) return "f32";
  return options.kernels == "auto" ? "" : options.kernels;
}

StepLimits StepLimitsFor(const Model& model, const EngineOptions& options) {
  return {options.step_tokens, LogitRows(options, model.info().vocab)};
}

KvLayout KvLayoutFor(const Model& model, const EngineOptions& options) {
  KvLayout layout = model.kv_layout();
  switch (options.kv_type) {
    case KvType::kF16:
      layout.dtype = DType::kF16;
      break;
    case KvType::kBF16:
      layout.dtype = DType::kBF16;
      break;
    case KvType::kQ8:
      layout.dtype = DType::kQ8_0;
      break;
  }
  if (options.precise) layout.dtype = DType::kF32;
  return layout;
}

MemoryNeeds NeedsOf(Model& model, const ServedExperts* experts, const EngineOptions& options,
                    bool on_device) {
  const StepLimits limits = StepLimitsFor(model, options);
  const KvLayout layout = KvLayoutFor(model, options);
  MemoryNeeds needs;
  needs.weights = model.weight_bytes();
  needs.work_space = model.WorkspaceBytes(limits) + model.ScratchBytes(limits) +
                     model.state_bytes() * options.max_sequences;
  // Logits are held twice: in the backend's memory and on the host.
  const uint64_t logits = sizeof(float) * uint64_t(limits.logit_rows) * model.info().vocab;
  needs.host_work_space = logits;
  needs.kv_block = layout.block_bytes();
  needs.block_tokens = layout.block_tokens;
  if (experts != nullptr) experts->AddNeeds(&needs);
  if (on_device) {
    needs.host_work_space += logits + kPinnedBytes;  // logits come back through pinned memory
  } else {
    needs.work_space += std::exchange(needs.host_work_space, 0);
  }
  return needs;
}

void ClampSequences(EngineOptions* options) {
  options->max_sequences = std::clamp(options->max_sequences, 1, options->step_tokens);
}

absl::StatusOr<PlannedModel> PlanModel(const std::string& path, const EngineOptions& options) {
  EngineOptions sketched = options;
  sketched.threads = 1;
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, NewBackend(sketched));
  const std::optional<DeviceMemory> device = backend->memory();
  return PlanModelOn(path, options, std::move(backend), device);
}

absl::StatusOr<PlannedModel> PlanModelOn(const std::string& path, const EngineOptions& options,
                                         std::unique_ptr<Backend> backend,
                                         const std::optional<DeviceMemory>& device) {
  PlannedModel planned;
  planned.options = options;
  planned.device = device;
  ClampSequences(&planned.options);
  HOSTLER_ASSIGN_OR_RETURN(
      planned.sketch,
      SketchModel(path, {options.quantize == Quantize::kQ8, options.precise}, std::move(backend)));
  Model& model = *planned.sketch.decoder.model;
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<ServedExperts> experts,
                           ServedExperts::Create(model, *planned.sketch.weights, planned.options));
  planned.needs = NeedsOf(model, experts.get(), planned.options, device.has_value());
  HOSTLER_ASSIGN_OR_RETURN(planned.memory,
                           DivideMemory(planned.needs, planned.options,
                                        planned.sketch.info.max_positions, planned.device));
  return planned;
}

}  // namespace hostler
