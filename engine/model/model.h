// Model: one architecture's graph over a Backend and an ExpertCache.
#pragma once

#include <memory>
#include <span>
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

// Told which experts each row of a step chose, for traces and tests.
class GateTrace {
 public:
  virtual ~GateTrace() = default;
  // `layer` counts MoE layers.
  virtual void Record(int layer, const ExpertSelection& selection) = 0;
};

// What a step gave. Reused from step to step.
struct StepResult {
  // Of those logit rows whose logits are all there, on the host, [rows, vocab].
  std::vector<float> logits;
  // [logit_rows] or empty, when all are in their order: where in `logits` a row is, or ~
  // where in `strongest`.
  std::vector<int32_t> places;
  std::vector<LogitCandidate> strongest;  // [rows, strongest_count]
  int strongest_count = 0;
  // Empty when all went well; else one per row, not OK where the row could not
  // be computed (its logits and its KV are then meaningless).
  std::vector<absl::Status> row_status;
  GateTrace* trace = nullptr;  // set by who wants to know; null: nobody

  // The logits of a logit row, or those that are there.
  std::span<const float> Logits(int index, int vocab) const;
  std::span<const LogitCandidate> Strongest(int index) const;

  // Marks a row; the first error stays.
  void FailRow(int row, int rows, const absl::Status& status);
};

// What sequences keep between steps, and where experts come from.
struct ModelMemory {
  KvView kv;
  StateView state;
  ExpertCache* cache = nullptr;  // holds experts(); null for a dense model
  // Tell the cache what the next layer's gate makes of this one's input.
  bool guess_by_gate = false;
};

// Immutable but for its work space: Forward is the engine loop's alone.
class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelInfo& info() const = 0;

  // Layers, heads and widths of this model's KV; the caller sets the type.
  virtual KvLayout kv_layout() const = 0;

  // Bytes of recurrent state that each sequence has; 0: none, and KV of equal
  // tokens may be shared between sequences.
  virtual size_t state_bytes() const = 0;

  // Where its experts lie; null for a dense model.
  virtual const ExpertStore* experts() const = 0;

  // Bytes of weights held in memory outside the expert cache.
  virtual uint64_t weight_bytes() const = 0;

  // Bytes that the backend takes of its own for steps so large.
  virtual uint64_t ScratchBytes(const StepLimits& limits) const = 0;
  // Bytes AllocateWorkspace will take.
  virtual uint64_t WorkspaceBytes(const StepLimits& limits) = 0;
  virtual absl::Status AllocateWorkspace(const StepLimits& limits) = 0;

  // One forward pass.
  // REQUIRES: the batch is within the work space's limits.
  virtual void Forward(const StepBatch& batch, const ModelMemory& memory, StepResult* result) = 0;

  // All logits of a logit row of the last Forward, whose result has the strongest of them:
  // `logits` becomes [vocab]. Errors: of the device.
  virtual absl::Status ReadLogits(const StepResult& result, int index,
                                  std::vector<float>* logits) = 0;
};

}  // namespace hostler
