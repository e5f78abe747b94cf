#include "engine/engine/model_needs.h"

#include <sched.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "cache/reader.h"
#include "cache/tier.h"
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
  if (options.threads > 0) return options.threads;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

StepLimits StepLimitsFor(const Model& model, const EngineOptions& options) {
  return {options.step_tokens, LogitRows(options, model.info().vocab)};
}

KvLayout KvLayoutFor(const Model& model, const EngineOptions& options) {
  KvLayout layout = model.kv_layout();
  layout.dtype = options.precise ? DType::kF32 : DType::kF16;
  return layout;
}

MemoryNeeds NeedsOf(Model& model, const EngineOptions& options) {
  const StepLimits limits = StepLimitsFor(model, options);
  const KvLayout layout = KvLayoutFor(model, options);
  MemoryNeeds needs;
  needs.weights = model.weight_bytes();
  // Logits are held twice: in the backend's memory and on the host.
  needs.work_space = model.WorkspaceBytes(limits) +
                     sizeof(float) * uint64_t(limits.logit_rows) * model.info().vocab +
                     model.state_bytes() * options.max_sequences;
  needs.kv_block = layout.block_bytes();
  needs.block_tokens = layout.block_tokens;
  if (const ExpertStore* experts = model.experts()) {
    uint64_t staged = 0;
    for (int layer = 0; layer < experts->num_layers(); ++layer) {
      const uint64_t slot = SlotStride(experts->slot_bytes(layer));
      needs.slot = std::max(needs.slot, slot);
      needs.all_experts += slot * experts->num_experts(layer);
      needs.layer_experts = std::max(needs.layer_experts, experts->num_experts(layer));
      if (experts->needs_decode(layer) && experts->num_experts(layer) > 0) {
        staged = std::max(staged, TotalBytes(experts->extents({layer, 0})));
      }
    }
    // A read that is not aligned goes through a buffer, and so does decoding.
    const ReaderOptions reads = ReaderOptionsFor(*experts);
    needs.work_space += reads.depth * (reads.max_bytes + staged);
  }
  return needs;
}

void ClampSequences(EngineOptions* options) {
  options->max_sequences = std::clamp(options->max_sequences, 1, options->step_tokens);
}

absl::StatusOr<PlannedModel> PlanModel(const std::string& path, const EngineOptions& options) {
  PlannedModel planned;
  planned.options = options;
  ClampSequences(&planned.options);
  HOSTLER_ASSIGN_OR_RETURN(planned.sketch,
                           SketchModel(path, {options.quantize == Quantize::kQ8, options.precise}));
  HOSTLER_ASSIGN_OR_RETURN(planned.memory,
                           DivideMemory(NeedsOf(*planned.sketch.decoder.model, planned.options),
                                        planned.options, planned.sketch.info.max_positions));
  return planned;
}

}  // namespace hostler
