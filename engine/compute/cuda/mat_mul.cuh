// The product kernel, for every weight type. A warp multiplies kRows rows of a matrix
// by kTokens rows of input: lane l takes values 8 (l + 32 i), ..., + 7 in ascending
// order, then the lanes are summed as a tree. So each result has the same sum whatever
// is computed beside it.
#pragma once

#include "engine/compute/cuda/dequantize.cuh"
#include "engine/compute/cuda/kernels.h"

namespace hostler {

inline constexpr int kMatMulWarps = 4;
inline constexpr int kMatMulRows = 4;

// Sums `n` values over the warp. The result with index l / (32 / n) is lane l's.
template <int n, int lanes = kWarpLanes / 2>
__device__ __forceinline__ float SumTransposed(float* values) {
  constexpr int half = n / 2;
  if constexpr (n > 1) {
    const bool upper = (threadIdx.x & lanes) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float give = upper ? values[i] : values[i + half];
      const float keep = upper ? values[i + half] : values[i];
      values[i] = keep + __shfl_xor_sync(0xffffffffu, give, lanes);
    }
  } else {
    values[0] += __shfl_xor_sync(0xffffffffu, values[0], lanes);
  }
  if constexpr (lanes > 1) {
    return SumTransposed<n / 2 + (n == 1), lanes / 2>(values);
  } else {
    return values[0];
  }
}

// The block's group; of a single matrix so many rows of input from the block's on.
__device__ inline MatMulGroup GroupAt(const MatMulTask& task, int64_t row_bytes, int tokens) {
  if (task.groups != nullptr) return task.groups[blockIdx.y];
  MatMulGroup group;
  group.w = task.w + int64_t{blockIdx.z} * task.rows * row_bytes;
  group.first = static_cast<int32_t>(task.first_token + int64_t{blockIdx.y} * tokens);
  group.count = static_cast<int32_t>(task.tokens - group.first);
  if (group.count > tokens) group.count = tokens;
  return group;
}

// Writes the sum of a row of the block's matrix and entry t of its group.
__device__ inline void PutSum(const MatMulTask& task, const MatMulGroup& group, int t, int64_t row,
                              float sum) {
  const int entry = group.first + t;
  const int64_t out_row = group.out + (task.out_rows == nullptr ? entry : task.out_rows[entry]);
  const int64_t at = out_row * task.y_stride + int64_t{blockIdx.z} * task.rows + row;
  task.y[at] = group.bias == nullptr ? sum : sum + LoadF32(group.bias + 4 * row);
}

template <DType type, int kTokens>
__global__ void __launch_bounds__(kMatMulWarps* kWarpLanes)
    MatMulKernel(MatMulTask task, int64_t row_bytes) {
  constexpr int kRows = kMatMulRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int64_t first_row = (int64_t{blockIdx.x} * kMatMulWarps + threadIdx.x / kWarpLanes) * kRows;
  if (first_row >= task.rows) return;
  const int64_t head = blockIdx.z;
  const MatMulGroup group = GroupAt(task, row_bytes, kTokens);

  const uint8_t* w[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = first_row + r < task.rows ? first_row + r : task.rows - 1;
    w[r] = group.w + row * row_bytes;
  }
  const float* x[kTokens];
  float scales[kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const int entry = group.first + (t < group.count ? t : 0);
    const int64_t row = task.in_rows == nullptr ? entry : task.in_rows[entry];
    x[t] = task.x + row * task.x_stride + head * task.cols;
    scales[t] = task.in_scales == nullptr ? 1.0f : task.in_scales[entry];
  }

  float sums[kRows * kTokens] = {};
  for (int64_t g = lane; g * kGroupValues < task.cols; g += kWarpLanes) {
    const int64_t left = task.cols - g * kGroupValues;
    const int count = left < kGroupValues ? static_cast<int>(left) : kGroupValues;
    float weights[kRows][kGroupValues];
#pragma unroll
    for (int r = 0; r < kRows; ++r) Format<type>::Decode(w[r], g, count, weights[r]);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= group.count) continue;
      float in[kGroupValues];
#pragma unroll
      for (int i = 0; i < kGroupValues; ++i) {
        in[i] = i < count ? x[t][g * kGroupValues + i] * scales[t] : 0.0f;
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kGroupValues; ++i) {
          sums[r * kTokens + t] = Fma(in[i], weights[r][i], sums[r * kTokens + t]);
        }
      }
    }
  }

  const float sum = SumTransposed<kRows * kTokens>(sums);
  constexpr int kLanesEach = kWarpLanes / (kRows * kTokens);
  const int index = lane / kLanesEach, t = index % kTokens;
  const int64_t row = first_row + index / kTokens;
  if (lane % kLanesEach != 0 || t >= group.count || row >= task.rows) return;
  PutSum(task, group, t, row, sum);
}

// Calls launch(part, tiles) for the task's tiles of so many tokens, in parts: a grid's second
// dimension is short.
template <typename F>
void ForTileParts(const MatMulTask& task, int tokens, F launch) {
  const int64_t tiles =
      task.groups != nullptr ? task.group_count : (task.tokens + tokens - 1) / tokens;
  constexpr int64_t kMostTiles = 65535;
  MatMulTask part = task;
  for (int64_t first = 0; first < tiles; first += kMostTiles) {
    const int64_t count = tiles - first < kMostTiles ? tiles - first : kMostTiles;
    if (task.groups != nullptr) {
      part.groups = task.groups + first;
    } else {
      part.first_token = first * tokens;
    }
    launch(part, static_cast<unsigned>(count));
  }
}

template <DType type>
void LaunchMatMulOf(Launcher& launcher, const MatMulTask& task,
                    std::span<const DeviceRange> slots) {
  const size_t row_bytes = RowBytes(type, task.cols);
  const bool one = task.groups == nullptr ? task.tokens == 1 : task.single;
  constexpr int64_t kBlockRows = kMatMulWarps * kMatMulRows;
  const int64_t blocks = (task.rows + kBlockRows - 1) / kBlockRows;
  ForTileParts(task, kTileTokens, [&](const MatMulTask& part, unsigned tiles) {
    const Shape shape = {dim3(unsigned(blocks), tiles, unsigned(task.heads)),
                         dim3(kMatMulWarps * kWarpLanes)};
    launcher.Run(shape,
                 {{{task.w, task.w_bytes},
                   RangeOf(task.x, task.x_rows * task.x_stride),
                   RangeOf(task.groups, task.group_count)},
                  {RangeOf(task.y, task.y_rows * task.y_stride)},
                  slots},
                 one ? &MatMulKernel<type, 1> : &MatMulKernel<type, kTileTokens>, part,
                 static_cast<int64_t>(row_bytes));
  });
}

}  // namespace hostler
