// The CPU backend's KV operations: writing blocks and attending over them.
#pragma once

#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cpu/context.h"

namespace hostler {

// See Backend::AppendKv.
void CpuAppendKv(CpuContext& context, const StepBatch& batch, int layer, Mat k, Mat v,
                 const KvView& kv);

// See Backend::Attention. How the work is divided shows in no result.
class CpuAttention {
 public:
  explicit CpuAttention(CpuContext& context) : context_(context) {
    units_.reserve(kUsualUnits);
    split_.reserve(kUsualUnits);
  }
  void Run(const AttentionSpec& spec, const StepBatch& batch, int layer, Mat q, const KvView& kv,
           Mat out);

 private:
  // Consecutive rows of a sequence times some query heads of one KV head.
  struct Unit {
    const StepBatch::Sequence* sequence;
    int row, rows;  // from the sequence's first
    int kv_head;
    int head, heads;
    int first_span, end_span;
    int64_t cost = 0;
    int64_t partials = -1;  // where in partials_ its spans' results go; -1: nowhere
  };
  // Fills units_, largest first, and split_, and returns the floats of partials_.
  int64_t Plan(const AttentionSpec& spec, const StepBatch& batch, const KvLayout& layout);
  // Those that cost too much are computed by spans. Returns as Plan does.
  int64_t SplitUnits(int v_dim);

  CpuContext& context_;
  static constexpr size_t kUsualUnits = 1024;
  std::vector<Unit> units_, split_;
  Scratch partials_;  // of units that are computed in several parts
};

}  // namespace hostler
