#include "engine/compute/cpu/gated_delta.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace hostler {
namespace {

constexpr int64_t kConvChannels = 256;  // of a chunk
constexpr float kNormEpsilon = 1e-6f;

// This layer's part of a sequence's state.
float* LayerState(const StateView& state, const StepBatch::Sequence& sequence, size_t offset) {
  return reinterpret_cast<float*>(state.slot(sequence.state) + offset);
}

float Softplus(float x) { return x > 20 ? x : std::log1p(std::exp(x)); }

}  // namespace

void CpuGatedDelta::Run(const DeltaNetSpec& spec, const StepBatch& batch, size_t state_offset,
                        Mat mixed, Mat beta, Mat decay, const StateView& state, Mat out) {
  int most_rows = 0;
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    most_rows = std::max(most_rows, sequence.rows);
    if (sequence.first_position == 0) {
      std::memset(LayerState(state, sequence, state_offset), 0,
                  spec.state_floats() * sizeof(float));
    }
  }
  Convolve(spec, batch, state_offset, mixed, state);
  NormalizeHeads(spec, mixed.rows);

  const int64_t head_floats = int64_t{spec.key_dim} * spec.value_dim;
  const int64_t conv_floats = int64_t{spec.kernel - 1} * spec.mixed_dim();
  context_.ReserveScratch(static_cast<size_t>(2 * most_rows));
  const int64_t units = static_cast<int64_t>(batch.sequences.size()) * spec.value_heads;
  const int64_t work = mixed.rows * spec.value_heads * head_floats * 2;
  context_.For(units, work, [&](int64_t unit, int thread) {
    const StepBatch::Sequence& sequence =
        batch.sequences[static_cast<size_t>(unit / spec.value_heads)];
    const int64_t head = unit % spec.value_heads;
    const int64_t key_head = head / (spec.value_heads / spec.key_heads);
    float* decays = context_.scratch(thread);
    float* betas = decays + sequence.rows;
    const float rate = -std::exp(spec.a_log[static_cast<size_t>(head)]);
    const float dt_bias = spec.dt_bias[static_cast<size_t>(head)];
    for (int i = 0; i < sequence.rows; ++i) {
      const int64_t row = sequence.first_row + i;
      decays[i] = std::exp(rate * Softplus(decay.row(row)[head] + dt_bias));
      betas[i] = 1 / (1 + std::exp(-beta.row(row)[head]));
    }
    const float* q = convolved_.data() + sequence.first_row * mixed.cols;
    const int64_t keys = int64_t{spec.key_heads} * spec.key_dim;
    context_.kernels().gated_delta(
        {.q = q + key_head * spec.key_dim,
         .k = q + keys + key_head * spec.key_dim,
         .v = q + 2 * keys + head * spec.value_dim,
         .stride = mixed.cols,
         .decay = decays,
         .beta = betas,
         .rows = sequence.rows,
         .key_dim = spec.key_dim,
         .value_dim = spec.value_dim,
         .state = LayerState(state, sequence, state_offset) + conv_floats + head * head_floats,
         .out = out.row(sequence.first_row) + head * spec.value_dim,
         .out_stride = out.cols});
  });
}

void CpuGatedDelta::Convolve(const DeltaNetSpec& spec, const StepBatch& batch, size_t state_offset,
                             Mat mixed, const StateView& state) {
  convolved_.Reserve(static_cast<size_t>(mixed.rows * mixed.cols));
  context_.ReserveScratch(static_cast<size_t>(spec.kernel * kConvChannels));
  const int64_t chunks = (mixed.cols + kConvChannels - 1) / kConvChannels;
  const int64_t work = mixed.rows * mixed.cols * (spec.kernel + 16);
  context_.For(chunks, work, [&](int64_t chunk, int thread) {
    const int64_t first = chunk * kConvChannels;
    const int64_t channels = std::min(kConvChannels, mixed.cols - first);
    float* weights = context_.scratch(thread);
    for (int64_t c = 0; c < channels; ++c) {
      for (int j = 0; j < spec.kernel; ++j) {
        weights[j * channels + c] = spec.conv[static_cast<size_t>((first + c) * spec.kernel + j)];
      }
    }
    for (const StepBatch::Sequence& sequence : batch.sequences) {
      context_.kernels().short_conv(
          {.weights = weights,
           .kernel = spec.kernel,
           .channels = channels,
           .rows = sequence.rows,
           .state = LayerState(state, sequence, state_offset) + first,
           .in = mixed.row(sequence.first_row) + first,
           .out = convolved_.data() + sequence.first_row * mixed.cols + first,
           .stride = mixed.cols});
    }
  });
}

void CpuGatedDelta::NormalizeHeads(const DeltaNetSpec& spec, int64_t rows) {
  const float q_scale = 1 / std::sqrt(static_cast<float>(spec.key_dim));
  context_.For(rows, rows * 2 * spec.key_heads * spec.key_dim, [&](int64_t row, int) {
    float* head = convolved_.data() + row * spec.mixed_dim();
    for (int h = 0; h < 2 * spec.key_heads; ++h, head += spec.key_dim) {
      const float scale = h < spec.key_heads ? q_scale : 1.0f;
      context_.kernels().unit_norm(head, spec.key_dim, kNormEpsilon, scale);
    }
  });
}

}  // namespace hostler
