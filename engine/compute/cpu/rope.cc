#include "engine/compute/cpu/rope.h"

#include <algorithm>
#include <cmath>

namespace hostler {
namespace {

void TurnHalves(const float* cosine, const float* sine, int64_t pairs, float* head) {
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

// Whether the row's sequence turns by the long frequencies.
bool IsLong(const RopeSpec& rope, const StepBatch& batch, int64_t row) {
  if (rope.long_inv_freq.empty()) return false;
  const auto sequence =
      std::find_if(batch.sequences.begin(), batch.sequences.end(), [row](const auto& candidate) {
        return row >= candidate.first_row && row < candidate.first_row + candidate.rows;
      });
  return sequence != batch.sequences.end() && sequence->prompt_tokens > rope.short_context;
}

}  // namespace

void CpuRope(CpuContext& context, const RopeSpec& rope, const StepBatch& batch, int head_dim,
             Mat x) {
  const int64_t pairs = static_cast<int64_t>(rope.inv_freq.size());
  context.ReserveScratch(static_cast<size_t>(2 * pairs));
  // A sine costs as much as tens of multiplications.
  const int64_t work = x.rows * (x.cols + 64 * pairs);
  context.For(x.rows, work, [&](int64_t row, int thread) {
    float* cosine = context.scratch(thread);
    float* sine = cosine + pairs;
    const float position = static_cast<float>(batch.positions[static_cast<size_t>(row)]);
    const bool is_long = IsLong(rope, batch, row);
    const float* inv_freq = (is_long ? rope.long_inv_freq : rope.inv_freq).data();
    const float scale = is_long ? rope.long_scale : rope.scale;
    for (int64_t i = 0; i < pairs; ++i) {
      // Rounded to f32 before the cosine, as reference implementations do.
      const float angle = position * inv_freq[i];
      cosine[i] = std::cos(angle) * scale;
      sine[i] = std::sin(angle) * scale;
    }
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
