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
  const auto put = [&](const float* values, int dim, std::byte* run, int at) {
    context.kernels().from_f32(layout.dtype, values, dim,
                               run + static_cast<size_t>(at) * RowBytes(layout.dtype, dim));
  };
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    context.For(sequence.rows, int64_t{sequence.rows} * 2 * k.cols, [&](int64_t i, int) {
      const int position = sequence.first_position + static_cast<int>(i);
      const int64_t row = sequence.first_row + i;
      const int at = position % layout.block_tokens;
      std::byte* block =
          kv.block(sequence.blocks[static_cast<size_t>(position / layout.block_tokens)]);
      for (int head = 0; head < layout.kv_heads; ++head) {
        put(k.row(row) + int64_t{head} * layout.k_dim, layout.k_dim,
            block + layout.k_offset(layer, head), at);
        if (layout.v_in_k) continue;
        put(v.row(row) + int64_t{head} * layout.v_dim, layout.v_dim,
            block + layout.v_offset(layer, head), at);
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
      AttentionScratchFloats(kUnitQueries, layout.k_dim, layout.v_dim, layout.block_tokens));
  const int64_t units = static_cast<int64_t>(units_.size());
  context_.For(units, work, [&](int64_t i, int thread) {
    // The last rows of a chunk see the most tokens; they go first.
    const Unit& unit = units_[static_cast<size_t>(units - 1 - i)];
    const int64_t row = unit.sequence->first_row + unit.row;
    const AttentionTask task = {.kv = kv.data,
                                .blocks = unit.sequence->blocks.data(),
                                .block_bytes = layout.block_bytes(),
                                .k_offset = layout.k_offset(layer, unit.kv_head),
                                .v_offset = layout.v_offset(layer, unit.kv_head),
                                .type = layout.dtype,
                                .block_tokens = layout.block_tokens,
                                .k_dim = layout.k_dim,
                                .v_dim = layout.v_dim,
                                .v_in_k = layout.v_in_k,
                                .first_position = unit.sequence->first_position + unit.row,
                                .rows = unit.rows,
                                .heads = unit.heads,
                                .scale = spec.scale,
                                .window = spec.window,
                                .chunk = spec.chunk,
                                .soft_cap = spec.soft_cap,
                                .sinks = spec.sinks.empty() ? nullptr : &spec.sinks[unit.head],
                                .q = q.row(row) + int64_t{unit.head} * layout.k_dim,
                                .q_stride = q.cols,
                                .out = out.row(row) + int64_t{unit.head} * layout.v_dim,
                                .out_stride = out.cols,
                                .scratch = context_.scratch(thread)};
    context_.kernels().attention(task);
  });
}

}  // namespace hostler
