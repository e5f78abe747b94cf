// The experts of a model that is served: their cache, with the reader, policy
// and predictor that the options ask for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/expert_cache.h"
#include "cache/policy.h"
#include "cache/reader.h"
#include "cache/store_sizes.h"
#include "cache/tier.h"
#include "engine/engine/engine.h"
#include "engine/engine/gate_recorder.h"
#include "engine/engine/memory_plan.h"
#include "engine/engine/warm_start.h"
#include "engine/model/model.h"
#include "engine/weights/source.h"

namespace hostler {

class ServedExperts {
 public:
  // What can be told before memory is divided; null for a dense model. `model`
  // and its `weights` must outlive the result. Errors: NotFound and
  // InvalidArgument for the pins; InvalidArgument for pins or a trace of a model
  // without experts; MeasureStore's.
  static absl::StatusOr<std::unique_ptr<ServedExperts>> Create(const Model& model,
                                                               const WeightSource& weights,
                                                               const EngineOptions& options);

  // Adds what slots, reads on their way to them, and a trace take.
  void AddNeeds(MemoryNeeds* needs) const;

  // Makes the cache, of plan.experts in the tier of `backend`, which must outlive it, and
  // plan.host_experts beneath that, and begins to fill it. Errors: the reader's and the cache's;
  // ResourceExhausted when the pinned experts do not fit; Unavailable when the trace cannot be
  // written; Unimplemented for an expert_io or expert_direct_io that there is not.
  absl::Status Start(const MemoryPlan& plan, Backend* backend);

  // Saves which experts were used most, if that is asked for. Any thread, after
  // Start().
  void SavePopularity();

  // REQUIRES: Start() succeeded
  ExpertCache* cache() const { return cache_.get(); }
  // Likewise; null: gates' choices are not recorded.
  GateRecorder* recorder() const { return recorder_.get(); }

 private:
  ServedExperts(const Model& model, const WeightSource& weights, const EngineOptions& options)
      : model_(model), weights_(weights), store_(*model.experts()), options_(options) {}

  absl::Status Measure();
  absl::Status ReadPins();
  // Pinned experts and a slot for the others.
  uint64_t least_bytes() const {
    return std::min(pinned_bytes_ + SlotStride(sizes_.slot_bytes), sizes_.all_slots_bytes);
  }
  absl::StatusOr<std::unique_ptr<Reader>> OpenReader() const;
  absl::StatusOr<std::unique_ptr<EvictionPolicy>> MakePolicy(uint64_t bytes) const;
  // "": popularity is not kept.
  std::string PopularityFile() const;
  void Warn(const std::string& text) const;

  const Model& model_;
  const WeightSource& weights_;
  const ExpertStore& store_;
  const EngineOptions options_;
  ReaderOptions reads_;
  PolicyShape shape_;
  StoreSizes sizes_;
  std::vector<ExpertKey> pins_;
  uint64_t pinned_bytes_ = 0;
  std::unique_ptr<ExpertCache> cache_;
  std::unique_ptr<GateRecorder> recorder_;
  std::unique_ptr<WarmStart> warm_start_;  // may be null; asks the cache while it lives
};

}  // namespace hostler
