// Products in integers (see integers.h), two kernels for every type, with the same bits:
// for few rows of input with dot products of bytes, for more on tensor cores.
#pragma once

#include "engine/compute/cuda/integers.h"
#include "engine/compute/cuda/kernels.h"
#include "engine/compute/cuda/mat_mul.cuh"
#include "engine/compute/cuda/mma.cuh"

namespace hostler {

// How Integers<type>::Decode reads on the device.
struct DeviceBytes {
  template <int n>
  static __device__ void Words(const uint8_t* p, uint32_t* out) {
    const unsigned apart = static_cast<unsigned>(reinterpret_cast<uintptr_t>(p) % 4);
    const auto* words = reinterpret_cast<const uint32_t*>(p - apart);
    uint32_t low = words[0];
#pragma unroll
    for (int i = 0; i < n; ++i) {
      // No word that has none of the bytes.
      const uint32_t high = i + 1 < n || apart != 0 ? words[i + 1] : 0;
      out[i] = __funnelshift_r(low, high, 8 * apart);
      low = high;
    }
  }
  static __device__ float Half(const uint8_t* p) { return HalfToFloat(LoadU16(p)); }

  template <DType type>
  static constexpr uint32_t TableWord(int i) {
    uint32_t word = 0;
    for (int j = 0; j < 4; ++j) {
      word |= static_cast<uint32_t>(static_cast<uint8_t>(TableEntry<type>(4 * i + j))) << 8 * j;
    }
    return word;
  }
  // Four nibbles at a time: of the table's lower half, of its upper one, and the right of both.
  template <DType type>
  static __device__ uint32_t LookUpFour(uint32_t nibbles) {
    constexpr uint32_t k0 = TableWord<type>(0), k1 = TableWord<type>(1);
    constexpr uint32_t k2 = TableWord<type>(2), k3 = TableWord<type>(3);
    const uint32_t index = nibbles & 0x7777u;
    const uint32_t lower = __byte_perm(k0, k1, index), upper = __byte_perm(k2, k3, index);
    return __byte_perm(lower, upper, 0x3210u | (nibbles & 0x8888u) >> 1);
  }
  template <DType type>
  static __device__ void LookUp(uint32_t word, uint32_t* low, uint32_t* high) {
    const uint32_t first = LookUpFour<type>(word), second = LookUpFour<type>(word >> 16);
    *low = __byte_perm(first, second, 0x6420u);
    *high = __byte_perm(first, second, 0x7531u);
  }
};

// A row of IntegerInputs.
struct IntegerRow {
  const uint8_t *high, *low;
  const float *sums, *scales;
};
__device__ inline IntegerRow IntegerRowAt(const IntegerInputs& x, int64_t row) {
  const auto* at = reinterpret_cast<const uint8_t*>(x.data) +
                   row * static_cast<int64_t>(IntegerInputs::RowBytes(x.cols));
  const auto* sums = reinterpret_cast<const float*>(at + 2 * x.cols);
  return {at, at + x.cols, sums, sums + x.cols / 16};
}
__device__ inline IntegerRow InputOf(const MatMulTask& task, const MatMulGroup& group,
                                     const IntegerInputs& x, int t) {
  const int entry = group.first + t;
  const int64_t row = task.in_rows == nullptr ? entry : task.in_rows[entry];
  return IntegerRowAt(x, row * task.heads + blockIdx.z);
}

// What belongs to a block's q: a scale for each of kParts, then as many minima.
template <DType type>
struct ScalesOf {
  static constexpr bool kMins = Integers<type>::kMins;
  static constexpr int kParts = Integers<type>::kHalves ? 2 : 1;
  static constexpr int kCount = kMins ? 2 * kParts : kParts;
  // part's next value; value[p] is Σ w q of part p, sums[h] the Σ q of its halves.
  static __device__ float AddTo(float part, const float* value, const float* scales,
                                const float* sums) {
#pragma unroll
    for (int p = 0; p < kParts; ++p) part = Fma(value[p], scales[p], part);
    if constexpr (kMins && kParts == 1) {
      part = Fma(-scales[1], sums[0] + sums[1], part);
    } else if constexpr (kMins) {
      part = Fma(-scales[2], sums[0], part);
      part = Fma(-scales[3], sums[1], part);
    }
    return part;
  }
  static __device__ float At(const IntegerBlock& block, int i) {
    return i < kParts ? block.scale[i] : block.least[i - kParts];
  }
};

// ---- Few rows of input ----
//
// A warp multiplies kFewRows rows of a matrix by up to kFewTokens rows of input, 1024
// columns at a time: it copies the rows' bytes to shared memory, 16 a lane, then each lane
// takes a block of 32 columns; then the lanes share the groups' parts among them. `split`
// warps take the columns of the same rows in turn. At last groups' parts are summed.

inline constexpr int kFewWarps = 4, kFewRows = 4;
inline constexpr int kSegmentBlocks = 32, kSegmentGroups = kSegmentBlocks / kGroupBlocks;
inline constexpr int kLinePitch = kSegmentBlocks + 1;  // apart in the banks

template <DType type>
struct FewShape {
  using Scales = ScalesOf<type>;
  static constexpr int kSegmentBytes =
      kSegmentBlocks * kIntegerBlock / Integers<type>::kElements * Integers<type>::kBytes;
  // Of 16 bytes that the row's bytes lie in, wherever they begin.
  static constexpr int kChunks = (kSegmentBytes + 15 + 15) / 16;
  static constexpr int kValues = kFewRows * Scales::kParts;  // lines a token
  // In floats, a warp's.
  static constexpr int WarpFloats(int tokens) {
    const int lines = tokens * kValues + kFewRows * Scales::kCount;
    return kFewRows * kChunks * 4 + (lines * kLinePitch + 3) / 4 * 4;
  }
  // For `split` warps on the same rows.
  static __host__ __device__ int64_t PartFloats(int split, int tokens, int64_t cols) {
    return int64_t{kFewWarps} / split * kFewRows * tokens * PartPitch(cols);
  }
  static __host__ __device__ int64_t PartPitch(int64_t cols) {
    return (cols + kIntegerGroup - 1) / kIntegerGroup | 1;
  }
};

template <DType type>
__global__ void __launch_bounds__(kFewWarps* kWarpLanes)
    FewTokensKernel(MatMulTask task, IntegerInputs x, int64_t row_bytes, int split, int tokens) {
  using Few = FewShape<type>;
  using Scales = ScalesOf<type>;
  constexpr int kParts = Scales::kParts, kCount = Scales::kCount;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int unit = warp / split;  // of the block's units of kFewRows rows
  const int64_t block_row = int64_t{blockIdx.x} * (kFewWarps / split) * kFewRows;
  const MatMulGroup group = GroupAt(task, row_bytes, kFewTokens);

  float* const own = SharedFloats() + warp * Few::WarpFloats(tokens);
  auto* const staged = reinterpret_cast<uint4*>(own);
  float* const values = own + kFewRows * Few::kChunks * 4;
  float* const scales = values + tokens * Few::kValues * kLinePitch;
  float* const all_parts = SharedFloats() + kFewWarps * Few::WarpFloats(tokens);
  const int64_t part_pitch = Few::PartPitch(task.cols);

  const uint8_t* w[kFewRows];
#pragma unroll
  for (int r = 0; r < kFewRows; ++r) {
    const int64_t row = block_row + unit * kFewRows + r;
    w[r] = group.w + (row < task.rows ? row : task.rows - 1) * row_bytes;
  }
  const int all_blocks = static_cast<int>(task.cols / kIntegerBlock);
  const int segments = (all_blocks + kSegmentBlocks - 1) / kSegmentBlocks;
  for (int segment = warp % split; segment < segments; segment += split) {
    const int left = all_blocks - segment * kSegmentBlocks;
    const int blocks = left < kSegmentBlocks ? left : kSegmentBlocks;
    const int bytes = static_cast<int>(int64_t{blocks} * kIntegerBlock / Integers<type>::kElements *
                                       Integers<type>::kBytes);
    // All loads are under way before the first is waited for.
    constexpr int kEach = (Few::kChunks + kWarpLanes - 1) / kWarpLanes;
    uint4 held[kFewRows][kEach];
    int apart[kFewRows];
#pragma unroll
    for (int r = 0; r < kFewRows; ++r) {
      const uint8_t* from = w[r] + int64_t{segment} * Few::kSegmentBytes;
      apart[r] = static_cast<int>(reinterpret_cast<uintptr_t>(from) % 16);
      const auto* chunks = reinterpret_cast<const uint4*>(from - apart[r]);
      const int count = (apart[r] + bytes + 15) / 16;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int chunk = i * kWarpLanes + lane;
        if (chunk < count) held[r][i] = chunks[chunk];
      }
    }
#pragma unroll
    for (int r = 0; r < kFewRows; ++r) {
      const int count = (apart[r] + bytes + 15) / 16;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int chunk = i * kWarpLanes + lane;
        if (chunk < count) staged[r * Few::kChunks + chunk] = held[r][i];
      }
    }
    __syncwarp();

    const int block = segment * kSegmentBlocks + lane;
    if (lane < blocks) {
      uint32_t q[kFewRows][8];
#pragma unroll
      for (int r = 0; r < kFewRows; ++r) {
        const auto* row = reinterpret_cast<const uint8_t*>(staged + r * Few::kChunks) + apart[r];
        IntegerBlock decoded;
        Integers<type>::template Decode<DeviceBytes>(row, lane, &decoded);
#pragma unroll
        for (int i = 0; i < 8; ++i) q[r][i] = decoded.q[i];
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          scales[(r * kCount + i) * kLinePitch + lane] = Scales::At(decoded, i);
        }
      }
      for (int t = 0; t < group.count; ++t) {
        const IntegerRow in = InputOf(task, group, x, t);
        uint4 words[4];
        words[0] = reinterpret_cast<const uint4*>(in.high)[2 * block];
        words[1] = reinterpret_cast<const uint4*>(in.high)[2 * block + 1];
        words[2] = reinterpret_cast<const uint4*>(in.low)[2 * block];
        words[3] = reinterpret_cast<const uint4*>(in.low)[2 * block + 1];
#pragma unroll
        for (int r = 0; r < kFewRows; ++r) {
          int sums[2];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const uint32_t* half = q[r] + 4 * h;
            const uint4 high = words[h], low = words[2 + h];
            int sum = Dp4a(half[0], high.x, 0);
            sum = Dp4a(half[1], high.y, sum);
            sum = Dp4a(half[2], high.z, sum);
            sum = Dp4a(half[3], high.w, sum) * 256;
            sum = Dp4a(half[0], low.x, sum);
            sum = Dp4a(half[1], low.y, sum);
            sum = Dp4a(half[2], low.z, sum);
            sums[h] = Dp4a(half[3], low.w, sum);
          }
          float* line = values + (t * Few::kValues + r * kParts) * kLinePitch + lane;
          if constexpr (kParts == 2) {
            line[0] = static_cast<float>(sums[0]);
            line[kLinePitch] = static_cast<float>(sums[1]);
          } else {
            line[0] = static_cast<float>(sums[0] + sums[1]);
          }
        }
      }
    }
    __syncwarp();

    // A lane's group of a row and a token.
    for (int i = lane; i < group.count * kFewRows * kSegmentGroups; i += kWarpLanes) {
      const int g = i % kSegmentGroups, r = i / kSegmentGroups % kFewRows;
      const int t = i / kSegmentGroups / kFewRows;
      const int first = g * kGroupBlocks;
      if (first >= blocks) continue;
      const float* sums = InputOf(task, group, x, t).sums + 2 * (segment * kSegmentBlocks + first);
      float part = 0;
      for (int b = 0; b < kGroupBlocks && first + b < blocks; ++b) {
        float value[kParts], scale[kCount];
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
          value[p] = values[(t * Few::kValues + r * kParts + p) * kLinePitch + first + b];
        }
#pragma unroll
        for (int c = 0; c < kCount; ++c) {
          scale[c] = scales[(r * kCount + c) * kLinePitch + first + b];
        }
        part = Scales::AddTo(part, value, scale, sums + 2 * b);
      }
      all_parts[((unit * kFewRows + r) * tokens + t) * part_pitch + segment * kSegmentGroups + g] =
          part;
    }
    __syncwarp();
  }
  __syncthreads();

  const int groups = (all_blocks + kGroupBlocks - 1) / kGroupBlocks;
  for (int i = static_cast<int>(threadIdx.x); i < kFewWarps / split * kFewRows * group.count;
       i += kFewWarps * kWarpLanes) {
    const int t = i % group.count, r = i / group.count;
    const int64_t row = block_row + r;
    if (row >= task.rows) continue;
    const float* in_scales = InputOf(task, group, x, t).scales;
    const float* parts = all_parts + (r * tokens + t) * part_pitch;
    float sum = 0;
    for (int g = 0; g < groups; ++g) sum = Fma(parts[g], in_scales[g], sum);
    PutSum(task, group, t, row, sum);
  }
}

// ---- Tensor cores ----
//
// A block multiplies 16 rows of a matrix for each of its warps by up to kTensorTokens rows
// of input, a group of 128 columns at a time: weights become bytes in shared memory, beside
// the inputs' bytes; of each block of 32 columns a warp has the tensor cores multiply
// 16 rows by 8 tokens, once by the high and once by the low bytes.

inline constexpr int kTensorWarps = 8, kTensorRows = 16, kMmaTokens = 8;
inline constexpr int kBytesPitch = kIntegerGroup + 16;  // so that rows lie in other banks
inline constexpr int kSumsPitch = 2 * kGroupBlocks + 1;

template <DType type>
constexpr int TensorSharedBytes(int warps) {
  const int rows = warps * kTensorRows;
  const int floats =
      rows * kGroupBlocks * ScalesOf<type>::kCount + kTensorTokens * (1 + kSumsPitch);
  return (rows + 2 * kTensorTokens) * kBytesPitch + floats * 4;
}

// What an accumulator begins with so that its bits are those of kMagic + the sum, as a
// float, for sums within 2^22.
inline constexpr int kMagicBits = 0x4b400000;
inline constexpr float kMagic = 12582912.0f;

// float(256 high + low) of two such accumulators.
__device__ inline float FromMagic(int high, int low) {
  return Fma(__int_as_float(high) - kMagic, 256.0f, __int_as_float(low) - kMagic);
}

template <DType type>
__global__ void __launch_bounds__(kTensorWarps* kWarpLanes)
    TensorKernel(MatMulTask task, IntegerInputs x, int64_t row_bytes) {
  using Scales = ScalesOf<type>;
  constexpr int kParts = Scales::kParts, kCount = Scales::kCount;
  constexpr int kMmaColumns = kIntegerBlock / kParts;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarpLanes, warp = thread / kWarpLanes;
  const int rows = threads / kWarpLanes * kTensorRows;
  const int64_t block_row = int64_t{blockIdx.x} * rows;
  const MatMulGroup group = GroupAt(task, row_bytes, kTensorTokens);

  auto* const weights = reinterpret_cast<uint8_t*>(SharedFloats());  // [rows]
  uint8_t* const highs = weights + rows * kBytesPitch;               // [kTensorTokens]
  uint8_t* const lows = highs + kTensorTokens * kBytesPitch;
  // [rows, blocks, kCount]
  float* const scales = reinterpret_cast<float*>(lows + kTensorTokens * kBytesPitch);
  float* const in_scales = scales + rows * kGroupBlocks * kCount;  // [kTensorTokens]
  float* const in_sums = in_scales + kTensorTokens;                // [kTensorTokens, halves]

  const int mma_row = lane / 4, mma_column = lane % 4;  // PTX's group and thread in it
  const int tiles = (group.count + kMmaTokens - 1) / kMmaTokens;
  float totals[kTensorTokens / kMmaTokens][4] = {};
  const int all_blocks = static_cast<int>(task.cols / kIntegerBlock);
  for (int first = 0; first < all_blocks; first += kGroupBlocks) {
    const int blocks = all_blocks - first < kGroupBlocks ? all_blocks - first : kGroupBlocks;
    for (int i = thread; i < rows * kGroupBlocks; i += threads) {
      const int r = i / kGroupBlocks, b = i % kGroupBlocks;
      if (b >= blocks) continue;
      const int64_t row = block_row + r < task.rows ? block_row + r : task.rows - 1;
      IntegerBlock decoded;
      Integers<type>::template Decode<DeviceBytes>(group.w + row * row_bytes, first + b, &decoded);
      auto* to = reinterpret_cast<uint4*>(weights + r * kBytesPitch + b * kIntegerBlock);
      const uint32_t* q = decoded.q;
      to[0] = {q[0], q[1], q[2], q[3]};
      to[1] = {q[4], q[5], q[6], q[7]};
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
        scales[(r * kGroupBlocks + b) * kCount + c] = Scales::At(decoded, c);
      }
    }
    // Tokens of the last tile that are not there are the first again.
    constexpr int kChunks = kIntegerGroup / 16;
    for (int i = thread; i < tiles * kMmaTokens * kChunks; i += threads) {
      const int t = i / kChunks, chunk = i % kChunks;
      if (chunk >= 2 * blocks) continue;
      const IntegerRow in = InputOf(task, group, x, t < group.count ? t : 0);
      const int from = first * kIntegerBlock / 16 + chunk, to = t * kBytesPitch + chunk * 16;
      *reinterpret_cast<uint4*>(highs + to) = reinterpret_cast<const uint4*>(in.high)[from];
      *reinterpret_cast<uint4*>(lows + to) = reinterpret_cast<const uint4*>(in.low)[from];
      // As many halves of blocks as chunks.
      if constexpr (Scales::kMins) {
        in_sums[t * kSumsPitch + chunk] = in.sums[2 * first + chunk];
      }
      if (chunk == 0) in_scales[t] = in.scales[first / kGroupBlocks];
    }
    __syncthreads();

    // The warp's weights of the whole group.
    uint32_t a[kGroupBlocks][4];
    float own_scales[kGroupBlocks][2][kCount];  // of rows mma_row and mma_row + 8
#pragma unroll
    for (int b = 0; b < kGroupBlocks; ++b) {
      if (b >= blocks) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = warp * kTensorRows + mma_row + i % 2 * 8;
        const int at = r * kBytesPitch + b * kIntegerBlock + i / 2 * 16 + 4 * mma_column;
        a[b][i] = *reinterpret_cast<const uint32_t*>(weights + at);
        if (i >= 2) continue;
#pragma unroll
        for (int c = 0; c < kCount; ++c) {
          own_scales[b][i][c] = scales[(r * kGroupBlocks + b) * kCount + c];
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTensorTokens / kMmaTokens; ++tile) {
      if (tile >= tiles) continue;
      float parts[4] = {};
#pragma unroll
      for (int b = 0; b < kGroupBlocks; ++b) {
        if (b >= blocks) continue;
        const int at =
            (tile * kMmaTokens + mma_row) * kBytesPitch + b * kIntegerBlock + 4 * mma_column;
        uint32_t high[2], low[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          high[h] = *reinterpret_cast<const uint32_t*>(highs + at + 16 * h);
          low[h] = *reinterpret_cast<const uint32_t*>(lows + at + 16 * h);
        }
        const int begin[4] = {kMagicBits, kMagicBits, kMagicBits, kMagicBits};
        int of_high[kParts][4], of_low[kParts][4];
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
          MmaS8<kMmaColumns>(of_high[p], a[b] + 2 * p, high + p, begin);
          MmaS8<kMmaColumns>(of_low[p], a[b] + 2 * p, low + p, begin);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float value[kParts];
#pragma unroll
          for (int p = 0; p < kParts; ++p) value[p] = FromMagic(of_high[p][i], of_low[p][i]);
          const int t = tile * kMmaTokens + 2 * mma_column + i % 2;
          parts[i] = Scales::AddTo(parts[i], value, own_scales[b][i / 2],
                                   in_sums + t * kSumsPitch + 2 * b);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int t = tile * kMmaTokens + 2 * mma_column + i % 2;
        totals[tile][i] = Fma(parts[i], in_scales[t], totals[tile][i]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int tile = 0; tile < kTensorTokens / kMmaTokens; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int t = tile * kMmaTokens + 2 * mma_column + i % 2;
      const int64_t row = block_row + warp * kTensorRows + mma_row + i / 2 * 8;
      if (t < group.count && row < task.rows) PutSum(task, group, t, row, totals[tile][i]);
    }
  }
}

// ---- Launches ----

inline constexpr int64_t kMostSharedBytes = 48 << 10;

template <DType type>
void LaunchIntegersOf(Launcher& launcher, const MatMulTask& task, const IntegerInputs& x,
                      std::span<const DeviceRange> slots) {
  const auto row_bytes = static_cast<int64_t>(RowBytes(type, task.cols));
  const auto run = [&](Shape shape, auto kernel, const auto&... arguments) {
    shape.grid.z = static_cast<unsigned>(task.heads);
    launcher.Run(
        shape,
        {{{task.w, task.w_bytes}, {x.data, x.bytes()}, RangeOf(task.groups, task.group_count)},
         {RangeOf(task.y, task.y_rows * task.y_stride)},
         slots},
        kernel, arguments...);
  };

  using Few = FewShape<type>;
  const bool one = task.groups == nullptr ? task.tokens == 1 : task.single;
  const int tokens = one ? 1 : kFewTokens;
  const int64_t segments =
      (task.cols + kSegmentBlocks * kIntegerBlock - 1) / (kSegmentBlocks * kIntegerBlock);
  const int split = segments >= 4 ? 4 : segments >= 2 ? 2 : 1;
  const int64_t shared =
      4 * (kFewWarps * Few::WarpFloats(tokens) + Few::PartFloats(split, tokens, task.cols));
  const bool few = task.groups == nullptr ? task.tokens <= kFewTokens : task.few;
  if (few && shared <= kMostSharedBytes) {
    const int64_t block_rows = kFewWarps / split * kFewRows;
    const auto blocks = static_cast<unsigned>((task.rows + block_rows - 1) / block_rows);
    ForTileParts(task, kFewTokens, [&](const MatMulTask& part, unsigned tiles) {
      run({dim3(blocks, tiles), dim3(kFewWarps * kWarpLanes), static_cast<size_t>(shared)},
          &FewTokensKernel<type>, part, x, row_bytes, split, tokens);
    });
    return;
  }
  ForTileParts(task, kTensorTokens, [&](const MatMulTask& part, unsigned tiles) {
    // Fewer rows a block where there would be fewer blocks than two for each multiprocessor.
    constexpr int64_t kEnoughBlocks = 264;
    int warps = kTensorWarps;
    const auto blocks = [&] {
      const int64_t rows = warps * kTensorRows;
      return (task.rows + rows - 1) / rows;
    };
    while (warps > 1 && blocks() * tiles * task.heads < kEnoughBlocks) warps /= 2;
    run({dim3(static_cast<unsigned>(blocks()), tiles), dim3(unsigned(warps * kWarpLanes)),
         static_cast<size_t>(TensorSharedBytes<type>(warps))},
        &TensorKernel<type>, part, x, row_bytes);
  });
}

}  // namespace hostler
