// Products of quantised weights in integers.
//
// Inputs are cut into groups of 128 columns x = scale * q. For AMX q has up to 16 bits,
// as many as the weight type leaves room for: q = (high << shift) + low, two signed
// bytes, and the weights' products with `high` are summed shifted. For VNNI alone q is
// one byte. The products of a block of 32 columns (16 for types with a scale for every
// 16) are summed exactly; then for a group
//
//   part = fma(float(Σ w q), weight scale, part) for its blocks in order
//   sum = fma(part, input scale, sum)            for groups in order
//
// where types with minima also have part = fma(-min, float(Σ q), part) after each block.
// All kernels of a table do just that, for one token or many, so all give the same bits.
// As in kernels.h, nothing inline from other headers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"

namespace hostler {

inline constexpr int kInputBlock = 32;
inline constexpr int kInputGroup = 128;
// Inputs are converted in units of up to so many tokens.
inline constexpr int kUnitTokens = 16;
// The most tokens of a task.
inline constexpr int kMaxIntegerTokens = 128;

// y[t][r] = x[t] · row r of w, for t < tokens and r < rows.
struct IntegerTask {
  DType type = DType::kF32;
  const std::byte* w = nullptr;
  bool interleaved = false;  // w is at the first row of a panel
  size_t row_bytes = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  // Units of 16 tokens one after another, of which the last may have fewer.
  const std::byte* x = nullptr;
  float* const* y = nullptr;
  int64_t tokens = 0;            // at most kMaxIntegerTokens
  std::byte* scratch = nullptr;  // IntegerScratchBytes(cols), 64-byte aligned
};

// The panel at hand: its bytes as multiplied and its scales; and, of rows that are not
// interleaved, they and their panel.
inline size_t IntegerScratchBytes(int64_t cols) {
  constexpr size_t kPrepared = 1024 + 2 * 64, kRowBlock = 34;
  return static_cast<size_t>(cols / kInputBlock) * (kPrepared + 2 * 16 * kRowBlock) + 64;
}

struct IntegerKernels {
  bool (*has)(DType type);
  // What a unit of `tokens` inputs of `cols` values, whole blocks, takes.
  size_t (*unit_bytes)(int64_t tokens, int64_t cols);
  // Makes a unit for weights of the type.
  void (*to_unit)(DType type, const float* const* x, int64_t tokens, int64_t cols, std::byte* out);
  // Makes a unit of the tokens of units that have one each.
  void (*gather)(const std::byte* const* units, int64_t tokens, int64_t cols, std::byte* out);
  void (*multiply)(const IntegerTask& task);
};

extern const IntegerKernels kVnniIntegerKernels;
extern const IntegerKernels kAmxIntegerKernels;

}  // namespace hostler
