// The CPU backend's KV operations: writing blocks and attending over them.
#pragma once

#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cpu/context.h"

namespace hostler {

// See Backend::AppendKv.
void CpuAppendKv(CpuContext& context, const StepBatch& batch, int layer, Mat k, Mat v,
                 const KvView& kv);

// See Backend::Attention.
class CpuAttention {
 public:
  explicit CpuAttention(CpuContext& context) : context_(context) {}
  void Run(const AttentionSpec& spec, const StepBatch& batch, int layer, Mat q, const KvView& kv,
           Mat out);

 private:
  // Consecutive rows of a sequence times some query heads of one KV head.
  struct Unit {
    const StepBatch::Sequence* sequence;
    int row, rows;  // from the sequence's first
    int kv_head;
    int head, heads;
  };
  void Plan(const AttentionSpec& spec, const StepBatch& batch, int kv_heads);

  CpuContext& context_;
  std::vector<Unit> units_;
};

}  // namespace hostler
