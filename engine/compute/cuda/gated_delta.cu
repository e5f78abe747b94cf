// The gated delta rule (see DeltaNetSpec). Rows of a sequence follow one another in
// order and each dimension of a value is by itself, so where a prompt was cut into
// steps does not show.
#include "engine/compute/cuda/device.cuh"
#include "engine/compute/cuda/kernels.h"

namespace hostler {
namespace {

constexpr int kThreads = 128;
constexpr float kNormEpsilon = 1e-6f;

struct Params {
  DeviceDeltaNet spec;
  DeviceBatch batch;
  uint8_t* state;  // of this layer in slot 0
  int64_t slot_bytes;
  Mat mixed, beta, decay, out;
  float* convolved;

  __device__ float* state_of(const DeviceSequence& sequence) const {
    return reinterpret_cast<float*>(state + sequence.state * slot_bytes);
  }
};

// Grid: channels, sequences. A thread has a channel of a sequence.
__global__ void ConvKernel(Params p) {
  const int64_t channel = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t channels = p.spec.mixed_dim;
  if (channel >= channels) return;
  const DeviceSequence& sequence = p.batch.sequences[blockIdx.y];
  const int before = p.spec.kernel - 1;
  float* state = p.state_of(sequence) + channel;
  if (sequence.first_position == 0) {
    for (int i = 0; i < before; ++i) state[i * channels] = 0;
  }
  const float* in = p.mixed.row(sequence.first_row) + channel;
  const float* weights = p.spec.conv + channel * p.spec.kernel;
  // The input `row` rows after the first, or before it if negative.
  const auto input = [&](int row) {
    return row < 0 ? state[(before + row) * channels] : in[row * channels];
  };
  for (int row = 0; row < sequence.rows; ++row) {
    float sum = 0;
    for (int j = 0; j < p.spec.kernel; ++j) sum = Fma(weights[j], input(row - before + j), sum);
    p.convolved[(sequence.first_row + row) * channels + channel] = SiluOf(sum);
  }
  for (int i = 0; i < before; ++i) state[i * channels] = input(sequence.rows - before + i);
}

// Grid: rows, heads of q and k. A warp makes a head's length 1; q's 1 / sqrt(key_dim).
__global__ void UnitNormKernel(Params p) {
  const int head = static_cast<int>(blockIdx.y), dim = p.spec.key_dim;
  float* x = p.convolved + int64_t{blockIdx.x} * p.spec.mixed_dim + int64_t{head} * dim;
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < dim; i += kWarpLanes) {
    squares = Fma(x[i], x[i], squares);
  }
  const float scale = head < p.spec.key_heads ? 1.0f / sqrtf(static_cast<float>(dim)) : 1.0f;
  const float by = scale / sqrtf(WarpSum(squares) + kNormEpsilon);
  for (int i = static_cast<int>(threadIdx.x); i < dim; i += kWarpLanes) x[i] *= by;
}

// Grid: value heads, sequences, runs of kThreads dimensions. A thread has one.
__global__ void DeltaKernel(Params p) {
  const DeviceDeltaNet& spec = p.spec;
  const int64_t column = int64_t{blockIdx.z} * kThreads + threadIdx.x;
  if (column >= spec.value_dim) return;
  const int head = static_cast<int>(blockIdx.x);
  const int key_head = head / (spec.value_heads / spec.key_heads);
  const DeviceSequence& sequence = p.batch.sequences[blockIdx.y];
  const int64_t keys = int64_t{spec.key_heads} * spec.key_dim;
  float* state = p.state_of(sequence) + int64_t{spec.kernel - 1} * spec.mixed_dim +
                 int64_t{head} * spec.key_dim * spec.value_dim + column;
  if (sequence.first_position == 0) {
    for (int64_t i = 0; i < spec.key_dim; ++i) state[i * spec.value_dim] = 0;
  }
  const float rate = -expf(spec.a_log[head]);
  for (int r = 0; r < sequence.rows; ++r) {
    const int64_t row = sequence.first_row + r;
    const float* q = p.convolved + row * spec.mixed_dim + int64_t{key_head} * spec.key_dim;
    const float* k = q + keys;
    const float v =
        p.convolved[row * spec.mixed_dim + 2 * keys + int64_t{head} * spec.value_dim + column];
    const float logit = p.decay.row(row)[head] + spec.dt_bias[head];
    const float softplus = logit > 20 ? logit : log1pf(expf(logit));
    const float decay = expf(rate * softplus);
    const float beta = Sigmoid(p.beta.row(row)[head]);
    float held = 0;
    for (int64_t i = 0; i < spec.key_dim; ++i) held = Fma(k[i], state[i * spec.value_dim], held);
    const float delta = beta * (v - decay * held);
    float out = 0;
    for (int64_t i = 0; i < spec.key_dim; ++i) {
      const float next = Fma(k[i], delta, decay * state[i * spec.value_dim]);
      state[i * spec.value_dim] = next;
      out = Fma(q[i], next, out);
    }
    p.out.row(row)[int64_t{head} * spec.value_dim + column] = out;
  }
}

}  // namespace

void LaunchGatedDelta(Launcher& launcher, const DeviceDeltaNet& spec, const DeviceBatch& batch,
                      size_t state_offset, Mat mixed, Mat beta, Mat decay, const StateView& state,
                      float* convolved, Mat out) {
  const Params p = {spec,
                    batch.ForKernels(),
                    reinterpret_cast<uint8_t*>(state.data) + state_offset,
                    static_cast<int64_t>(state.slot_bytes),
                    mixed,
                    beta,
                    decay,
                    out,
                    convolved};
  const DeviceRange states = {state.data,
                              state.slot_bytes * static_cast<size_t>(batch.last_state + 1)};
  const DeviceRange work = RangeOf(convolved, mixed.rows * mixed.cols);
  const unsigned sequences = static_cast<unsigned>(batch.sequence_count);
  launcher.Run(
      {.grid = dim3(static_cast<unsigned>((mixed.cols + kThreads - 1) / kThreads), sequences),
       .block = dim3(kThreads),
       .independent = true},
      {{RangeOf(mixed), RangeOf(spec.conv, mixed.cols * spec.kernel)}, {states, work}}, &ConvKernel,
      p);
  launcher.Run({.grid = dim3(static_cast<unsigned>(mixed.rows), 2u * unsigned(spec.key_heads)),
                .block = dim3(kWarpLanes)},
               {{}, {work}}, &UnitNormKernel, p);
  const unsigned runs = static_cast<unsigned>((spec.value_dim + kThreads - 1) / kThreads);
  launcher.Run({.grid = dim3(unsigned(spec.value_heads), sequences, runs),
                .block = dim3(kThreads),
                .independent = true},
               {{work, RangeOf(beta), RangeOf(decay)}, {states, RangeOf(out)}}, &DeltaKernel, p);
}

}  // namespace hostler
