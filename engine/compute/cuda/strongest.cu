// Finds each row's strongest values. A warp takes them one after another from a group of
// values that its lanes hold; what the groups of a row leave is gone through likewise,
// until one group is left.
#include <bit>
#include <utility>

#include "engine/compute/cuda/device.cuh"
#include "engine/compute/cuda/kernels.h"

namespace hostler {
namespace {

constexpr int kPerLane = 32;
constexpr int kGroup = kPerLane * kWarpLanes;
static_assert(kMostStrongest < kGroup);  // each pass leaves less

// Bits that are in the order of the values; -0 is 0, NaN comes last.
__device__ unsigned OrderedBits(float value) {
  if (!(value == value)) return 0xffffffffu;
  const unsigned bits = __float_as_uint(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ StrongKey WarpMaxKey(StrongKey key) {
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) {
    const StrongKey other = __shfl_xor_sync(0xffffffffu, key, lanes);
    if (other > key) key = other;
  }
  return key;
}

struct Params {
  const float* values = nullptr;  // null: keys
  const StrongKey* keys = nullptr;
  int64_t cols = 0;  // of either, in a row
  int count = 0;
  StrongKey* out = nullptr;  // [rows, groups, count]
};

// Grid: groups of a row, rows.
__global__ void StrongestKernel(Params p) {
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.y, first = int64_t{blockIdx.x} * kGroup;
  StrongKey held[kPerLane];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int64_t i = first + j * kWarpLanes + lane;
    held[j] = 0;
    if (i >= p.cols) continue;
    if (p.values == nullptr) {
      held[j] = p.keys[row * p.cols + i];
    } else {
      const unsigned value = OrderedBits(p.values[row * p.cols + i]);
      held[j] = static_cast<StrongKey>(value) << 32 | (0xffffffffu - static_cast<unsigned>(i));
    }
  }
  StrongKey* out = p.out + (row * gridDim.x + blockIdx.x) * p.count;
  for (int n = 0; n < p.count; ++n) {
    StrongKey mine = 0;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) mine = held[j] > mine ? held[j] : mine;
    const StrongKey strongest = WarpMaxKey(mine);
    if (lane == 0) out[n] = strongest;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      if (held[j] == strongest) held[j] = 0;
    }
  }
}

int64_t GroupsOf(int64_t cols) { return (cols + kGroup - 1) / kGroup; }

}  // namespace

int64_t StrongestScratchKeys(int64_t rows, int64_t cols, int count) {
  const int64_t first = GroupsOf(cols) * count;
  return rows * (first + GroupsOf(first) * count);
}

// Passes take turns with two halves.
const StrongKey* LaunchStrongest(Launcher& launcher, Mat x, int count, StrongKey* scratch) {
  Params p;
  p.values = x.data;
  p.cols = x.cols;
  p.count = count;
  p.out = scratch;
  StrongKey* other = scratch + x.rows * GroupsOf(x.cols) * count;
  for (;;) {
    const int64_t groups = GroupsOf(p.cols);
    const DeviceRange out = RangeOf(p.out, x.rows * groups * count);
    const DeviceRange in = p.values != nullptr ? RangeOf(x) : RangeOf(p.keys, x.rows * p.cols);
    launcher.Run({.grid = dim3(static_cast<unsigned>(groups), static_cast<unsigned>(x.rows)),
                  .block = dim3(kWarpLanes)},
                 {{in}, {out}}, &StrongestKernel, p);
    if (groups == 1) return p.out;
    p.values = nullptr;
    p.keys = p.out;
    p.cols = groups * count;
    p.out = std::exchange(other, p.out);
  }
}

LogitCandidate CandidateOf(StrongKey key) {
  const auto ordered = static_cast<unsigned>(key >> 32);
  const unsigned bits = (ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered;
  return {std::bit_cast<float>(bits),
          static_cast<int32_t>(0xffffffffu - static_cast<unsigned>(key))};
}

}  // namespace hostler
