#include "engine/engine/model_needs.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/base/cores.h"
#include "engine/base/status.h"

namespace hostler {
namespace {

// Logits of as many rows as fit 64 MiB, so that scoring whole prompts is
// quick with small vocabularies and bounded with large ones.
int LogitRows(const EngineOptions& options, int vocab) {
  const int64_t rows = (int64_t{64} << 20) / (int64_t{vocab} * 4);
  return static_cast<int>(
      std::clamp<int64_t>(rows, std::min(64, options.step_tokens), options.step_tokens));
}

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

MemoryNeeds NeedsOf(Model& model, const ServedExperts* experts, const EngineOptions& options) {
  const StepLimits limits = StepLimitsFor(model, options);
  const KvLayout layout = KvLayoutFor(model, options);
  MemoryNeeds needs;
  needs.weights = model.weight_bytes();
  // Logits are held twice: in the backend's memory and on the host.
  needs.work_space = model.WorkspaceBytes(limits) + model.ScratchBytes(limits) +
                     sizeof(float) * uint64_t(limits.logit_rows) * model.info().vocab +
                     model.state_bytes() * options.max_sequences;
  needs.kv_block = layout.block_bytes();
  needs.block_tokens = layout.block_tokens;
  if (experts != nullptr) experts->AddNeeds(&needs);
  return needs;
}

void ClampSequences(EngineOptions* options) {
  options->max_sequences = std::clamp(options->max_sequences, 1, options->step_tokens);
}

absl::StatusOr<PlannedModel> PlanModel(const std::string& path, const EngineOptions& options) {
  PlannedModel planned;
  planned.options = options;
  ClampSequences(&planned.options);
  HOSTLER_ASSIGN_OR_RETURN(
      planned.sketch,
      SketchModel(path, {options.quantize == Quantize::kQ8, options.precise}, KernelsFor(options)));
  Model& model = *planned.sketch.decoder.model;
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<ServedExperts> experts,
                           ServedExperts::Create(model, *planned.sketch.weights, planned.options));
  planned.needs = NeedsOf(model, experts.get(), planned.options);
  HOSTLER_ASSIGN_OR_RETURN(planned.memory, DivideMemory(planned.needs, planned.options,
                                                        planned.sketch.info.max_positions));
  return planned;
}

}  // namespace hostler
