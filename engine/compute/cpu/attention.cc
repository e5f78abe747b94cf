#include "engine/compute/cpu/attention.h"

#include <algorithm>

#include "engine/compute/quantize.h"

namespace hostler {
namespace {

// A unit's rows times heads: they share one conversion of keys and values. Fewer if
// heads are so wide that what is converted would leave the second-level cache.
constexpr int kUnitQueries = 256;
constexpr int kWideUnitQueries = 128;
constexpr int kWide = 512;  // k_dim + v_dim
// Units to have for each thread, so that all end at about the same time.
constexpr int kUnitsPerThread = 4;
constexpr int64_t kMostPartialFloats = 8 << 20;

int UnitQueries(const KvLayout& layout) {
  return layout.k_dim + layout.v_dim > kWide ? kWideUnitQueries : kUnitQueries;
}

int64_t TilesOf(int64_t queries) { return (queries + kAttentionTile - 1) / kAttentionTile; }

// Of one token: to convert it costs as much as to attend with three tiles.
int64_t TokenCost(int64_t queries) { return 3 + TilesOf(queries); }

// A row in blocks, the last of which may end in zeros.
void PutQ8(const float* values, int dim, std::byte* out) {
  constexpr int kBlock = 32;
  const int whole = dim / kBlock * kBlock;
  QuantizeQ8_0(values, whole, out);
  if (whole == dim) return;
  float last[kBlock] = {};
  std::copy(values + whole, values + dim, last);
  QuantizeQ8_0(last, kBlock, out + RowBytes(DType::kQ8_0, whole));
}

// The first position that the row at `position` sees.
int FirstSeen(const AttentionSpec& spec, int position) {
  int first = 0;
  if (spec.window > 0) first = std::max(first, position - spec.window + 1);
  if (spec.chunk > 0) first = std::max(first, position / spec.chunk * spec.chunk);
  return first;
}

}  // namespace

void CpuAppendKv(CpuContext& context, const StepBatch& batch, int layer, Mat k, Mat v,
                 const KvView& kv) {
  const KvLayout& layout = kv.layout;
  const auto put = [&](const float* values, int dim, size_t row_bytes, std::byte* run, int at) {
    std::byte* out = run + static_cast<size_t>(at) * row_bytes;
    if (layout.dtype == DType::kQ8_0) {
      PutQ8(values, dim, out);
    } else {
      context.kernels().from_f32(layout.dtype, values, dim, out);
    }
  };
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    context.For(sequence.rows, int64_t{sequence.rows} * 2 * k.cols, [&](int64_t i, int) {
      const int position = sequence.first_position + static_cast<int>(i);
      const int64_t row = sequence.first_row + i;
      const int at = position % layout.block_tokens;
      std::byte* block =
          kv.block(sequence.blocks[static_cast<size_t>(position / layout.block_tokens)]);
      for (int head = 0; head < layout.kv_heads; ++head) {
        put(k.row(row) + int64_t{head} * layout.k_dim, layout.k_dim, layout.k_row_bytes(),
            block + layout.k_offset(layer, head), at);
        if (layout.v_in_k) continue;
        put(v.row(row) + int64_t{head} * layout.v_dim, layout.v_dim, layout.v_row_bytes(),
            block + layout.v_offset(layer, head), at);
      }
    });
  }
}

int64_t CpuAttention::Plan(const AttentionSpec& spec, const StepBatch& batch,
                           const KvLayout& layout) {
  units_.clear();
  split_.clear();
  const int group = spec.heads / layout.kv_heads;
  const int heads = std::min(group, UnitQueries(layout));
  const int rows = UnitQueries(layout) / heads;
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    for (int row = 0; row < sequence.rows; row += rows) {
      for (int kv_head = 0; kv_head < layout.kv_heads; ++kv_head) {
        for (int head = 0; head < group; head += heads) {
          const int last = sequence.first_position + std::min(row + rows, sequence.rows) - 1;
          const int first = FirstSeen(spec, sequence.first_position + row);
          Unit unit = {.sequence = &sequence,
                       .row = row,
                       .rows = std::min(rows, sequence.rows - row),
                       .kv_head = kv_head,
                       .head = kv_head * group + head,
                       .heads = std::min(heads, group - head),
                       .first_span = first / kAttentionSpan,
                       .end_span = last / kAttentionSpan + 1};
          unit.cost = (last + 1 - first) * TokenCost(int64_t{unit.rows} * unit.heads);
          units_.push_back(unit);
        }
      }
    }
  }
  const int64_t partials = SplitUnits(layout.v_dim);
  std::sort(units_.begin(), units_.end(),
            [](const Unit& a, const Unit& b) { return a.cost > b.cost; });
  return partials;
}

int64_t CpuAttention::SplitUnits(int v_dim) {
  int64_t all = 0, partials = 0;
  for (const Unit& unit : units_) all += unit.cost;
  const int64_t most = all / (int64_t{context_.threads()} * kUnitsPerThread);
  const size_t whole = units_.size();
  for (size_t i = 0; context_.threads() > 1 && i < whole; ++i) {
    const int spans = units_[i].end_span - units_[i].first_span;
    if (units_[i].cost <= most || spans == 1) continue;
    const int64_t span_floats =
        static_cast<int64_t>(AttentionPartialFloats(units_[i].rows * units_[i].heads, v_dim));
    if (partials + spans * span_floats > kMostPartialFloats) continue;
    units_[i].partials = partials;
    split_.push_back(units_[i]);
    const int64_t parts = std::min<int64_t>(units_[i].cost / std::max<int64_t>(most, 1) + 1, spans);
    const int each = static_cast<int>((spans + parts - 1) / parts);
    Unit part = units_[i];
    part.cost = part.cost * each / spans;
    for (int span = part.first_span; span < split_.back().end_span; span += each) {
      part.first_span = span;
      part.end_span = std::min(span + each, split_.back().end_span);
      part.partials = partials + (span - split_.back().first_span) * span_floats;
      if (span == split_.back().first_span) {
        units_[i] = part;
      } else {
        units_.push_back(part);
      }
    }
    partials += spans * span_floats;
  }
  return partials;
}

void CpuAttention::Run(const AttentionSpec& spec, const StepBatch& batch, int layer, Mat q,
                       const KvView& kv, Mat out) {
  const KvLayout& layout = kv.layout;
  // In large steps: a longer context is not to allocate again and again.
  constexpr int64_t kStep = 1 << 16;
  partials_.Reserve(static_cast<size_t>((Plan(spec, batch, layout) + kStep - 1) / kStep * kStep));
  int64_t work = 0;
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    work += int64_t{sequence.rows} * (sequence.first_position + sequence.rows) * q.cols;
  }
  context_.ReserveScratch(AttentionScratchFloats(UnitQueries(layout), layout.k_dim, layout.v_dim));
  const auto task_of = [&](const Unit& unit, int thread) {
    const int64_t row = unit.sequence->first_row + unit.row;
    return AttentionTask{.kv = kv.data,
                         .blocks = unit.sequence->blocks.data(),
                         .block_bytes = layout.block_bytes(),
                         .k_offset = layout.k_offset(layer, unit.kv_head),
                         .v_offset = layout.v_offset(layer, unit.kv_head),
                         .k_row_bytes = layout.k_row_bytes(),
                         .v_row_bytes = layout.v_in_k ? layout.k_row_bytes() : layout.v_row_bytes(),
                         .type = layout.dtype,
                         .block_tokens = layout.block_tokens,
                         .k_dim = layout.k_dim,
                         .v_dim = layout.v_dim,
                         .v_in_k = layout.v_in_k,
                         .first_position = unit.sequence->first_position + unit.row,
                         .rows = unit.rows,
                         .heads = unit.heads,
                         .first_span = unit.first_span,
                         .end_span = unit.end_span,
                         .scale = spec.scale,
                         .window = spec.window,
                         .chunk = spec.chunk,
                         .soft_cap = spec.soft_cap,
                         .sinks = spec.sinks.empty() ? nullptr : &spec.sinks[unit.head],
                         .q = q.row(row) + int64_t{unit.head} * layout.k_dim,
                         .q_stride = q.cols,
                         .out = out.row(row) + int64_t{unit.head} * layout.v_dim,
                         .out_stride = out.cols,
                         .partials = unit.partials < 0 ? nullptr : partials_.data() + unit.partials,
                         .scratch = context_.scratch(thread)};
  };
  context_.For(static_cast<int64_t>(units_.size()), work, [&](int64_t i, int thread) {
    context_.kernels().attention(task_of(units_[static_cast<size_t>(i)], thread));
  });
  context_.For(static_cast<int64_t>(split_.size()), work, [&](int64_t i, int thread) {
    context_.kernels().merge_attention(task_of(split_[static_cast<size_t>(i)], thread));
  });
}

}  // namespace hostler
