#include "engine/compute/cpu/attention.h"

#include <algorithm>

namespace hostler {
namespace {

// Queries that share one conversion of a block.
constexpr int kUnitQueries = 32;
static_assert(kUnitQueries <= kMaxAttentionQueries);

}  // namespace

void CpuAppendKv(CpuContext& context, const StepBatch& batch, int layer, Mat k, Mat v,
                 const KvView& kv) {
  const KvLayout& layout = kv.layout;
  const size_t row_bytes = RowBytes(layout.dtype, layout.head_dim);
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    context.For(sequence.rows, int64_t{sequence.rows} * 2 * k.cols, [&](int64_t i, int) {
      const int position = sequence.first_position + static_cast<int>(i);
      const int64_t row = sequence.first_row + i;
      std::byte* block =
          kv.block(sequence.blocks[static_cast<size_t>(position / layout.block_tokens)]);
      const size_t offset = static_cast<size_t>(position % layout.block_tokens) * row_bytes;
      for (int head = 0; head < layout.kv_heads; ++head) {
        const int64_t column = int64_t{head} * layout.head_dim;
        context.kernels().from_f32(layout.dtype, k.row(row) + column, layout.head_dim,
                                   block + layout.k_offset(layer, head) + offset);
        context.kernels().from_f32(layout.dtype, v.row(row) + column, layout.head_dim,
                                   block + layout.v_offset(layer, head) + offset);
      }
    });
  }
}

void CpuAttention::Plan(const AttentionSpec& spec, const StepBatch& batch, int kv_heads) {
  units_.clear();
  const int group = spec.heads / kv_heads;
  const int heads = std::min(group, kUnitQueries);
  const int rows = kUnitQueries / heads;
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    for (int row = 0; row < sequence.rows; row += rows) {
      for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
        for (int head = 0; head < group; head += heads) {
          units_.push_back({.sequence = &sequence,
                            .row = row,
                            .rows = std::min(rows, sequence.rows - row),
                            .kv_head = kv_head,
                            .head = kv_head * group + head,
                            .heads = std::min(heads, group - head)});
        }
      }
    }
  }
}

void CpuAttention::Run(const AttentionSpec& spec, const StepBatch& batch, int layer, Mat q,
                       const KvView& kv, Mat out) {
  const KvLayout& layout = kv.layout;
  Plan(spec, batch, layout.kv_heads);
  int64_t work = 0;
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    work += int64_t{sequence.rows} * (sequence.first_position + sequence.rows) * q.cols;
  }
  context_.ReserveScratch(
      AttentionScratchFloats(kUnitQueries, layout.head_dim, layout.block_tokens));
  const int64_t units = static_cast<int64_t>(units_.size());
  context_.For(units, work, [&](int64_t i, int thread) {
    // The last rows of a chunk see the most tokens; they go first.
    const Unit& unit = units_[static_cast<size_t>(units - 1 - i)];
    const int64_t row = unit.sequence->first_row + unit.row;
    const int64_t column = int64_t{unit.head} * layout.head_dim;
    const AttentionTask task = {.kv = kv.data,
                                .blocks = unit.sequence->blocks.data(),
                                .block_bytes = layout.block_bytes(),
                                .k_offset = layout.k_offset(layer, unit.kv_head),
                                .v_offset = layout.v_offset(layer, unit.kv_head),
                                .type = layout.dtype,
                                .block_tokens = layout.block_tokens,
                                .head_dim = layout.head_dim,
                                .first_position = unit.sequence->first_position + unit.row,
                                .rows = unit.rows,
                                .heads = unit.heads,
                                .scale = spec.scale,
                                .q = q.row(row) + column,
                                .out = out.row(row) + column,
                                .row_stride = q.cols,
                                .scratch = context_.scratch(thread)};
    context_.kernels().attention(task);
  });
}

}  // namespace hostler
