#include "engine/compute/cpu/rope.h"

#include <algorithm>
#include <cmath>

namespace hostler {
namespace {

void TurnHalves(const float* __restrict cosine, const float* __restrict sine, int64_t pairs,
                float* __restrict head) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = head[i];
    const float b = head[i + pairs];
    head[i] = a * cosine[i] - b * sine[i];
    head[i + pairs] = b * cosine[i] + a * sine[i];
  }
}

void TurnNeighbours(const float* cosine, const float* sine, int64_t pairs, float* head) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = head[2 * i];
    const float b = head[2 * i + 1];
    head[2 * i] = a * cosine[i] - b * sine[i];
    head[2 * i + 1] = b * cosine[i] + a * sine[i];
  }
}

}  // namespace

const CpuRope::Table& CpuRope::TableFor(const RopeSpec& rope, const StepBatch& batch) {
  is_long_.assign(batch.positions.size(), 0);
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    if (rope.long_inv_freq.empty() || sequence.prompt_tokens <= rope.short_context) continue;
    std::fill_n(is_long_.begin() + sequence.first_row, sequence.rows, 1);
  }
  for (const Table& table : tables_) {
    if (table.positions == batch.positions && table.is_long == is_long_ &&
        table.inv_freq == rope.inv_freq && table.long_inv_freq == rope.long_inv_freq &&
        table.scale == rope.scale && table.long_scale == rope.long_scale) {
      return table;
    }
  }
  if (tables_.size() < kTables) tables_.emplace_back();
  Table& table = tables_[next_++ % kTables];
  table.inv_freq = rope.inv_freq;
  table.long_inv_freq = rope.long_inv_freq;
  table.scale = rope.scale;
  table.long_scale = rope.long_scale;
  table.positions = batch.positions;
  table.is_long = is_long_;
  FillTable(table);
  return table;
}

void CpuRope::FillTable(Table& table) {
  const int64_t pairs = static_cast<int64_t>(table.inv_freq.size());
  const int64_t rows = static_cast<int64_t>(table.positions.size());
  table.turns.resize(static_cast<size_t>(rows * 2 * pairs));
  // A sine costs as much as tens of multiplications.
  context_.For(rows, rows * 64 * pairs, [&](int64_t row, int) {
    float* cosine = table.turns.data() + row * 2 * pairs;
    float* sine = cosine + pairs;
    const float position = static_cast<float>(table.positions[static_cast<size_t>(row)]);
    const bool is_long = table.is_long[static_cast<size_t>(row)] != 0;
    const float* inv_freq = (is_long ? table.long_inv_freq : table.inv_freq).data();
    const float scale = is_long ? table.long_scale : table.scale;
    for (int64_t i = 0; i < pairs; ++i) {
      // Rounded to f32 before the cosine, as reference implementations do.
      const float angle = position * inv_freq[i];
      cosine[i] = std::cos(angle) * scale;
      sine[i] = std::sin(angle) * scale;
    }
  });
}

void CpuRope::Run(const RopeSpec& rope, const StepBatch& batch, int head_dim, Mat x) {
  const int64_t pairs = static_cast<int64_t>(rope.inv_freq.size());
  const float* turns = TableFor(rope, batch).turns.data();
  context_.For(x.rows, x.rows * x.cols, [&](int64_t row, int) {
    const float* cosine = turns + row * 2 * pairs;
    const float* sine = cosine + pairs;
    for (int64_t at = 0; at + head_dim <= x.cols; at += head_dim) {
      float* head = x.row(row) + at + rope.first;
      if (rope.interleaved) {
        TurnNeighbours(cosine, sine, pairs, head);
      } else {
        TurnHalves(cosine, sine, pairs, head);
      }
    }
  });
}

}  // namespace hostler
