// The MoE feed-forward layer: gate → experts through the cache → weighted sum.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/expert_cache.h"
#include "engine/compute/backend.h"
#include "engine/model/model.h"

namespace hostler {

// Work space of all MoE layers of a model, for one step at a time. No fixed
// number of choices per row is assumed beyond `max_entries`.
class MoeWorkspace {
 public:
  static uint64_t Bytes(int max_rows, int max_entries, int experts, int64_t dim);
  absl::Status Allocate(Backend* backend, int max_rows, int max_entries, int experts, int64_t dim);

 private:
  friend class MoeLayer;
  // Lists the rows and entries of every chosen expert, ascending by row, so
  // that what an expert computes does not depend on when it arrives.
  void GroupByExpert(int rows, int experts);

  std::unique_ptr<Buffer> logits_, outputs_;
  Mat gate_logits;     // [rows, experts]
  Mat expert_outputs;  // [entries, dim]
  ExpertSelection selection;
  std::vector<int32_t> group_offsets;  // [experts + 1], into the two below
  std::vector<int32_t> group_rows;     // [entries]
  std::vector<int32_t> group_entries;  // [entries]
  std::vector<int> wanted;             // experts with at least one row
  std::vector<ExpertTask> tasks;
};

class MoeLayer {
 public:
  MoeLayer() = default;
  // `index` counts MoE layers (ExpertKey::layer); `gate` is [experts, dim].
  MoeLayer(int index, const GateSpec& spec, const Weight& gate, const ExpertLayout& layout)
      : index_(index), spec_(spec), gate_(gate), layout_(layout) {}

  // y += Σ weight · expert(x), for x and y [rows, dim]. Experts that are
  // resident compute while others are read; the sum is in the gate's order
  // whatever order they arrive in. Rows that chose an expert which could not
  // be read are failed in `result`.
  void Forward(Backend& backend, ExpertCache& cache, MoeWorkspace& work, Mat x, Mat y,
               StepResult* result) const;

 private:
  void FailRows(const MoeWorkspace& work, const AcquiredExpert& expert, int rows,
                StepResult* result) const;

  int index_ = 0;
  GateSpec spec_;
  Weight gate_;
  ExpertLayout layout_;
};

}  // namespace hostler
