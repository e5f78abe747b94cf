// Operations on rows: norms, elementwise functions, copies, rotary positions.
#include "engine/compute/cuda/dequantize.cuh"
#include "engine/compute/cuda/exact_math.h"
#include "engine/compute/cuda/kernels.h"

namespace hostler {
namespace {

constexpr int kThreads = 128;
// Rows at least so wide are normalised by more than a warp; the width alone decides.
constexpr int64_t kWide = 2048;
constexpr int kWideThreads = 256;
constexpr int kMostWarps = kWideThreads / kWarpLanes;

// One thread for each of `count` things.
Shape ShapeFor(int64_t count) {
  return {.grid = dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)),
          .block = dim3(kThreads),
          .independent = true};
}

Shape RowShape(Mat x) {
  return {.grid = dim3(static_cast<unsigned>(x.rows)),
          .block = dim3(x.cols >= kWide ? kWideThreads : kWarpLanes)};
}

__device__ int64_t ThreadIndex() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

struct Vector {
  DType type;
  const uint8_t* data;  // null: all ones
};
Vector VectorOf(const Weight& w) { return {w.dtype, reinterpret_cast<const uint8_t*>(w.data)}; }

__device__ float GainAt(const Vector& gain, int64_t i) {
  return gain.data == nullptr ? 1.0f : ValueAt(gain.type, gain.data, i);
}

__global__ void RmsNormKernel(Mat x, Vector gain, float eps, Mat out) {
  __shared__ float warps[kMostWarps];
  const float* in = x.row(blockIdx.x);
  float squares = 0;
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) squares = Fma(in[i], in[i], squares);
  const float mean = BlockSum(squares, warps) / static_cast<float>(x.cols);
  const float scale = 1.0f / sqrtf(mean + eps);
  float* to = out.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) {
    to[i] = in[i] * scale * GainAt(gain, i);
  }
}

__global__ void LayerNormKernel(Mat x, Vector gain, Vector bias, float eps, Mat out) {
  __shared__ float warps[kMostWarps];
  const float* in = x.row(blockIdx.x);
  const float count = static_cast<float>(x.cols);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) sum += in[i];
  const float mean = BlockSum(sum, warps) / count;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) {
    squares = Fma(in[i] - mean, in[i] - mean, squares);
  }
  const float scale = 1.0f / sqrtf(BlockSum(squares, warps) / count + eps);
  float* to = out.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) {
    to[i] = (in[i] - mean) * scale * GainAt(gain, i) + ValueAt(bias.type, bias.data, i);
  }
}

__global__ void EmbedKernel(Vector table, int64_t cols, int64_t row_bytes, const int32_t* ids,
                            int64_t rows, float* out) {
  const int64_t groups = (cols + kGroupValues - 1) / kGroupValues;
  const int64_t index = ThreadIndex(), row = index / groups, group = index % groups;
  if (row >= rows) return;
  const int64_t left = cols - group * kGroupValues;
  const int count = left < kGroupValues ? static_cast<int>(left) : kGroupValues;
  float values[kGroupValues];
  DecodeAny(table.type, table.data + ids[row] * row_bytes, group, count, values);
  for (int i = 0; i < count; ++i) out[row * cols + group * kGroupValues + i] = values[i];
}

// out[i] = f(i) for each value of a matrix.
template <typename F>
__global__ void ForEachKernel(int64_t count, float* out, F f) {
  const int64_t i = ThreadIndex();
  if (i < count) out[i] = f(i);
}

struct BiasOf {
  Vector bias;
  Mat y;
  __device__ float operator()(int64_t i) const {
    return y.data[i] + ValueAt(bias.type, bias.data, i % y.cols);
  }
};
struct ScaleBy {
  float factor;
  const float* x;
  __device__ float operator()(int64_t i) const { return x[i] * factor; }
};
struct ScaleRowsBy {
  const float* factors;
  Mat x;
  __device__ float operator()(int64_t i) const { return x.data[i] * factors[i / x.cols]; }
};
struct GateBy {
  Mat gate, x;
  __device__ float operator()(int64_t i) const {
    return x.data[i] * Sigmoid(gate.data[gate.cols == x.cols ? i : i / x.cols]);
  }
};
struct CapAt {
  float cap;
  const float* x;
  __device__ float operator()(int64_t i) const { return Capped(x[i], cap); }
};
struct ClampTo {
  float limit;
  const float* x;
  __device__ float operator()(int64_t i) const {
    return x[i] < -limit ? -limit : x[i] > limit ? limit : x[i];
  }
};
struct GeluOf {
  const float* x;
  // 0.70710678 is 1 / sqrt(2).
  __device__ float operator()(int64_t i) const { return 0.5f * x[i] * erfcf(-0.70710678f * x[i]); }
};
struct SumOf {
  const float* x;
  const float* y;
  __device__ float operator()(int64_t i) const { return y[i] + x[i]; }
};
struct Zeros {
  __device__ float operator()(int64_t) const { return 0; }
};
struct RowsOf {
  Mat from;
  const int32_t* rows;
  __device__ float operator()(int64_t i) const {
    return from.row(rows[i / from.cols])[i % from.cols];
  }
};
struct Activated {
  Activation kind;
  float limit;
  const float* gate;
  const float* up;
  __device__ float operator()(int64_t i) const {
    return ExactActivation(kind, limit, gate[i], up[i]);
  }
};

template <typename F>
void RunForEach(Launcher& launcher, const Uses& uses, Mat out, const F& f) {
  const int64_t count = out.rows * out.cols;
  launcher.Run(ShapeFor(count), uses, &ForEachKernel<F>, count, out.data, f);
}

__global__ void CopyColumnsKernel(Mat from, int64_t from_column, int64_t width, Mat to,
                                  int64_t to_column) {
  const int64_t index = ThreadIndex(), row = index / width, column = index % width;
  if (row < from.rows) to.row(row)[to_column + column] = from.row(row)[from_column + column];
}

__global__ void CombineKernel(const int32_t* offsets, const float* weights, Mat x, Mat y) {
  const int64_t index = ThreadIndex(), row = index / y.cols, column = index % y.cols;
  if (row >= y.rows) return;
  float sum = y.row(row)[column];
  for (int32_t e = offsets[row]; e < offsets[row + 1]; ++e) {
    sum = Fma(weights[e], x.row(e)[column], sum);
  }
  y.row(row)[column] = sum;
}

__global__ void WeightlessKernel(WeightlessTask task, Mat mix, Mat x, Mat y) {
  const int64_t index = ThreadIndex(), row = index / y.cols, column = index % y.cols;
  if (row >= y.rows) return;
  float sum = y.row(row)[column];
  const float in = x.row(row)[column];
  for (int32_t e = task.offsets[row]; e < task.offsets[row + 1]; ++e) {
    const float weight = task.weights[e];
    const int64_t constant = task.experts[e] - task.first;
    if (constant >= task.constant_count) {
      sum = Fma(weight, in, sum);
      continue;
    }
    const float* logits = mix.row(row) + 2 * constant;
    const float of_input = 1.0f / (1.0f + expf(logits[1] - logits[0]));
    sum = Fma(weight * of_input, in, sum);
    sum = Fma(weight * (1.0f - of_input), task.constants[constant * y.cols + column], sum);
  }
  y.row(row)[column] = sum;
}

__global__ void RopeKernel(DeviceRope rope, DeviceBatch batch, int head_dim, Mat x) {
  const int64_t heads = x.cols / head_dim;
  const int64_t index = ThreadIndex(), pair = index % rope.pairs, head = index / rope.pairs % heads;
  const int64_t row = index / rope.pairs / heads;
  if (row >= x.rows) return;
  const int sequence = batch.row_sequences[row];
  const bool is_long = rope.long_inv_freq != nullptr && sequence >= 0 &&
                       batch.sequences[sequence].prompt_tokens > rope.short_context;
  const float scale = is_long ? rope.long_scale : rope.scale;
  // Rounded to f32 before the cosine, as reference implementations do.
  const float angle = static_cast<float>(batch.positions[row]) *
                      (is_long ? rope.long_inv_freq : rope.inv_freq)[pair];
  const float cosine = cosf(angle) * scale, sine = sinf(angle) * scale;
  float* at = x.row(row) + head * head_dim + rope.first;
  float* first = at + (rope.interleaved ? 2 * pair : pair);
  float* second = first + (rope.interleaved ? 1 : rope.pairs);
  const float a = *first, b = *second;
  *first = a * cosine - b * sine;
  *second = b * cosine + a * sine;
}

}  // namespace

void LaunchEmbed(Launcher& launcher, const Weight& table, const int32_t* ids, Mat out) {
  const int64_t groups = (table.cols + kGroupValues - 1) / kGroupValues;
  launcher.Run(ShapeFor(out.rows * groups),
               {{RangeOf(table), RangeOf(ids, out.rows)}, {RangeOf(out)}}, &EmbedKernel,
               VectorOf(table), table.cols, static_cast<int64_t>(RowBytes(table.dtype, table.cols)),
               ids, out.rows, out.data);
}

void LaunchRmsNorm(Launcher& launcher, Mat x, const Weight& gain, float eps, Mat out) {
  launcher.Run(RowShape(x), {{RangeOf(x), RangeOf(gain)}, {RangeOf(out)}}, &RmsNormKernel, x,
               VectorOf(gain), eps, out);
}

void LaunchLayerNorm(Launcher& launcher, Mat x, const Weight& gain, const Weight& bias, float eps,
                     Mat out) {
  launcher.Run(RowShape(x), {{RangeOf(x), RangeOf(gain), RangeOf(bias)}, {RangeOf(out)}},
               &LayerNormKernel, x, VectorOf(gain), VectorOf(bias), eps, out);
}

void LaunchAddBias(Launcher& launcher, const Weight& bias, Mat y) {
  RunForEach(launcher, {{RangeOf(bias)}, {RangeOf(y)}}, y, BiasOf{VectorOf(bias), y});
}

void LaunchScale(Launcher& launcher, float factor, Mat x) {
  RunForEach(launcher, {{}, {RangeOf(x)}}, x, ScaleBy{factor, x.data});
}

void LaunchScaleRows(Launcher& launcher, const float* factors, Mat x) {
  RunForEach(launcher, {{RangeOf(factors, x.rows)}, {RangeOf(x)}}, x, ScaleRowsBy{factors, x});
}

void LaunchSigmoidGate(Launcher& launcher, Mat gate, Mat x) {
  RunForEach(launcher, {{RangeOf(gate)}, {RangeOf(x)}}, x, GateBy{gate, x});
}

void LaunchSoftCap(Launcher& launcher, float cap, Mat x) {
  RunForEach(launcher, {{}, {RangeOf(x)}}, x, CapAt{cap, x.data});
}

void LaunchClamp(Launcher& launcher, float limit, Mat x) {
  RunForEach(launcher, {{}, {RangeOf(x)}}, x, ClampTo{limit, x.data});
}

void LaunchCopyColumns(Launcher& launcher, Mat from, int64_t from_column, int64_t width, int heads,
                       Mat to, int64_t to_column) {
  const Mat source = from.reshaped(from.cols / heads), target = to.reshaped(to.cols / heads);
  launcher.Run(ShapeFor(source.rows * width), {{RangeOf(from)}, {RangeOf(to)}}, &CopyColumnsKernel,
               source, from_column, width, target, to_column);
}

void LaunchActivate(Launcher& launcher, const ActivationSpec& activation, Mat gate, Mat up,
                    Mat out) {
  RunForEach(launcher, {{RangeOf(gate), RangeOf(up)}, {RangeOf(out)}}, out,
             Activated{activation.kind, activation.limit, gate.data, up.data});
}

void LaunchGelu(Launcher& launcher, Mat x) {
  RunForEach(launcher, {{}, {RangeOf(x)}}, x, GeluOf{x.data});
}

void LaunchAdd(Launcher& launcher, Mat x, Mat y) {
  RunForEach(launcher, {{RangeOf(x)}, {RangeOf(y)}}, y, SumOf{x.data, y.data});
}

void LaunchZero(Launcher& launcher, Mat x) { RunForEach(launcher, {{}, {RangeOf(x)}}, x, Zeros()); }

void LaunchGatherRows(Launcher& launcher, Mat from, const int32_t* rows, Mat to) {
  RunForEach(launcher, {{RangeOf(from), RangeOf(rows, to.rows)}, {RangeOf(to)}}, to,
             RowsOf{from, rows});
}

void LaunchCombine(Launcher& launcher, const int32_t* offsets, const float* weights, Mat x, Mat y) {
  launcher.Run(ShapeFor(y.rows * y.cols),
               {{RangeOf(offsets, y.rows + 1), RangeOf(x)}, {RangeOf(y)}}, &CombineKernel, offsets,
               weights, x, y);
}

void LaunchWeightless(Launcher& launcher, const WeightlessTask& task, Mat mix, Mat x, Mat y) {
  launcher.Run(ShapeFor(y.rows * y.cols),
               {{RangeOf(task.constants, task.constant_count * y.cols), RangeOf(mix), RangeOf(x)},
                {RangeOf(y)}},
               &WeightlessKernel, task, mix, x, y);
}

void LaunchRope(Launcher& launcher, const DeviceRope& rope, const DeviceBatch& batch, int head_dim,
                Mat x) {
  if (rope.pairs == 0) return;
  launcher.Run(ShapeFor(x.rows * (x.cols / head_dim) * rope.pairs),
               {{RangeOf(batch.positions, batch.rows)}, {RangeOf(x)}}, &RopeKernel, rope,
               batch.ForKernels(), head_dim, x);
}

}  // namespace hostler
