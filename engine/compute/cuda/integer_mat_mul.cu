#include "engine/compute/cuda/integer_mat_mul.cuh"

namespace hostler {
namespace {

constexpr int kInputWarps = 8;
constexpr int kLaneValues = kIntegerGroup / kWarpLanes;

struct InputTask {
  const float* x = nullptr;
  const int32_t* in_rows = nullptr;
  const float* in_scales = nullptr;
  std::byte* out = nullptr;
  int64_t rows = 0, cols = 0, groups = 0;
};

// A warp for a group of a row, four columns a lane.
__global__ void __launch_bounds__(kInputWarps* kWarpLanes) QuantizeInputsKernel(InputTask task) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int64_t index = int64_t{blockIdx.x} * kInputWarps + threadIdx.x / kWarpLanes;
  const int64_t row = index / task.groups, group = index % task.groups;
  if (row >= task.rows) return;
  const int64_t from = task.in_rows == nullptr ? row : task.in_rows[row];
  const float factor = task.in_scales == nullptr ? 1.0f : task.in_scales[row];
  const int64_t column = group * kIntegerGroup + lane * kLaneValues;
  const float* x = task.x + from * task.cols + column;
  const bool there = column < task.cols;  // whole blocks are
  float values[kLaneValues];
  unsigned most = 0;  // as bits: NaN is above infinity
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) {
    values[i] = there ? x[i] * factor : 0.0f;
    const unsigned bits = __float_as_uint(values[i]) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) {
    const unsigned other = __shfl_xor_sync(0xffffffffu, most, lanes);
    most = other > most ? other : most;
  }
  const float largest = __uint_as_float(most);
  const float inverse = largest >= 1e-30f ? static_cast<float>(kMostQuant) / largest : 0.0f;
  uint32_t high = 0, low = 0;
  int sum = 0;
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) {
    const float scaled = values[i] * inverse;
    int q = __float2int_rn(scaled);
    // Infinity times 0 gives no number.
    if (scaled != scaled || q < -kMostQuant) q = -kMostQuant;
    if (q > kMostQuant) q = kMostQuant;
    sum += q;
    const int upper = (q + 128) >> 8;
    high |= (static_cast<unsigned>(upper) & 255u) << 8 * i;
    low |= (static_cast<unsigned>(q) & 255u) << 8 * i;
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  if (!there) return;
  std::byte* const out = task.out + row * static_cast<int64_t>(IntegerInputs::RowBytes(task.cols));
  *reinterpret_cast<uint32_t*>(out + column) = high;
  *reinterpret_cast<uint32_t*>(out + task.cols + column) = low;
  auto* const sums = reinterpret_cast<float*>(out + 2 * task.cols);
  if (lane % 4 == 0) sums[column / 16] = static_cast<float>(sum);
  if (lane == 0) sums[task.cols / 16 + group] = largest * (1.0f / kMostQuant);
}

}  // namespace

void LaunchQuantizeInputs(Launcher& launcher, const float* x, int64_t x_rows,
                          const int32_t* in_rows, const float* in_scales, const IntegerInputs& to) {
  InputTask task;
  task.x = x;
  task.in_rows = in_rows;
  task.in_scales = in_scales;
  task.out = const_cast<std::byte*>(to.data);
  task.rows = to.rows;
  task.cols = to.cols;
  task.groups = (to.cols + kIntegerGroup - 1) / kIntegerGroup;
  const int64_t blocks = (task.rows * task.groups + kInputWarps - 1) / kInputWarps;
  launcher.Run({dim3(static_cast<unsigned>(blocks)), dim3(kInputWarps * kWarpLanes)},
               {{RangeOf(x, x_rows * to.cols)}, {{to.data, to.bytes()}}}, &QuantizeInputsKernel,
               task);
}

void LaunchIntegerMatMul(Launcher& launcher, const MatMulTask& task, const IntegerInputs& x,
                         std::span<const DeviceRange> slots) {
  switch (task.type) {
#define HOSTLER_CASE(name) \
  case DType::name:        \
    return LaunchIntegersOf<DType::name>(launcher, task, x, slots);
    HOSTLER_INTEGER_TYPES(HOSTLER_CASE)
#undef HOSTLER_CASE
    default:
      return;
  }
}

}  // namespace hostler
