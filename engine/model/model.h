// Model: one architecture's graph over a Backend and an ExpertCache.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/expert_cache.h"
#include "cache/expert_store.h"
#include "engine/compute/backend.h"
#include "engine/compute/step_batch.h"
#include "engine/kv/layout.h"
#include "engine/model/model_info.h"
#include "engine/weights/source.h"

namespace hostler {

// Limits of a step, known when the work space is made.
struct StepLimits {
  int rows = 0;
  int logit_rows = 0;
};

// What a step gave. Reused from step to step.
struct StepResult {
  std::vector<float> logits;  // [logit_rows, vocab], host
  // Empty when all went well; else one per row, not OK where the row could not
  // be computed (its logits and its KV are then meaningless).
  std::vector<absl::Status> row_status;

  // Marks a row; the first error stays.
  void FailRow(int row, int rows, const absl::Status& status);
};

// Immutable but for its work space: Forward is the engine loop's alone.
class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelInfo& info() const = 0;

  // Layers, heads and widths of this model's KV; the caller sets the type.
  virtual KvLayout kv_layout() const = 0;

  // Where its experts lie; null for a dense model.
  virtual const ExpertStore* experts() const = 0;

  // Bytes of weights held in memory outside the expert cache.
  virtual uint64_t weight_bytes() const = 0;

  // Bytes AllocateWorkspace will take.
  virtual uint64_t WorkspaceBytes(const StepLimits& limits) const = 0;
  virtual absl::Status AllocateWorkspace(const StepLimits& limits) = 0;

  // One forward pass. `cache` holds experts() and is null for a dense model.
  // REQUIRES: the batch is within the work space's limits.
  virtual void Forward(const StepBatch& batch, const KvView& kv, ExpertCache* cache,
                       StepResult* result) = 0;
};

}  // namespace hostler
