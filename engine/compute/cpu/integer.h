// Products of quantised weights in integers.
//
// An input is cut into blocks of 32 values x = scale * q with |q| <= 32639, which
// keeps it to about 16 bits; q = 256 * high + low, two signed bytes, so that
// instructions that multiply bytes apply. A block's products with a weight block
// are summed exactly; then
//
//   sums[b % 4] = fma(float(Σ w q), weight scale * input scale, sums[b % 4])
//
// for blocks b in order, and the result is (sums[0] + sums[2]) + (sums[1] +
// sums[3]). All kernels do just that, for one token or many, so all give the
// same bits. As in kernels.h, nothing inline from other headers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"

namespace hostler {

inline constexpr int kInputBlock = 32;
inline constexpr int kInputTile = 16;  // tokens

// One token's columns [128 g, 128 g + 128): blocks b of 4. Column 32 b + 16 h + i
// is byte 16 b + i of half h. What there is of a block is in lanes [4 b, 4 b + 4),
// four times. Blocks after the
// last column are zero.
struct alignas(64) InputGroup {
  int8_t high[2][64];
  int8_t low[2][64];
  float scale[16];
  float scaled_sum[16];  // scale * Σ q
  int32_t sum[2][16];    // Σ q of each half
};

// A block of 16 tokens: column 4 k + i of token t is byte [k][t][i]. Tokens that
// there are not are zero.
struct alignas(64) InputTileBlock {
  int8_t high[8][kInputTile][4];
  int8_t low[8][kInputTile][4];
  float scale[kInputTile];
  float scaled_sum[kInputTile];
  int32_t sum[2][kInputTile];
};

// y[t][r] = x[t] · row r of w, for t < tokens and r < rows.
struct IntegerTask {
  DType type = DType::kF32;
  const std::byte* w = nullptr;
  size_t row_bytes = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  // Of every token its InputGroups, or of every 16 tokens their InputTileBlocks.
  const void* x = nullptr;
  float* const* y = nullptr;
  int64_t tokens = 0;
  std::byte* scratch = nullptr;  // by tiles: IntegerScratchBytes(cols), 64-byte aligned
};

inline int64_t InputGroups(int64_t cols) { return (cols + 127) / 128; }

// 16 weight rows as bytes, and their scales.
inline size_t IntegerScratchBytes(int64_t cols) {
  return static_cast<size_t>(InputGroups(cols)) * 4 * (16 * 32 + 2 * 64);
}

struct IntegerKernels {
  // The fewest tokens that are better multiplied as tiles.
  int tile_from;
  bool (*has)(DType type);
  // A row of `cols` values, in whole blocks; the same of up to 16 rows.
  void (*to_groups)(const float* x, int64_t cols, InputGroup* out);
  void (*to_tile)(const float* const* x, int tokens, int64_t cols, InputTileBlock* out);
  // By groups and by tiles.
  void (*multiply)(const IntegerTask& task);
  void (*multiply_tiles)(const IntegerTask& task);
};

extern const IntegerKernels kVnniIntegerKernels;
extern const IntegerKernels kAmxIntegerKernels;

}  // namespace hostler
