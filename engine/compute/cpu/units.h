// Products whose inputs are converted once for all weights that they meet: into units
// of up to 16 tokens, whose form is the kernels' own (integer.h, bf16_split.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"

namespace hostler {

inline constexpr int kUnitTokens = 16;
// The most tokens of a task.
inline constexpr int kMaxUnitTaskTokens = 128;

// y[t][r] = x[t] · row r of w, for t < tokens and r < rows.
struct UnitTask {
  DType type = DType::kF32;
  const std::byte* w = nullptr;
  bool interleaved = false;  // w is at the first row of a panel
  size_t row_bytes = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  // Units of 16 tokens, `unit_bytes` apart, of which the last may have fewer.
  const std::byte* x = nullptr;
  size_t unit_bytes = 0;
  float* const* y = nullptr;
  int64_t tokens = 0;            // at most kMaxUnitTaskTokens
  std::byte* scratch = nullptr;  // scratch_bytes(cols), 64-byte aligned
};

// A row has the same bits alone, in any unit and with any neighbours.
struct UnitKernels {
  bool (*has)(DType type);
  // What a unit of `tokens` inputs of `cols` values takes.
  size_t (*unit_bytes)(int64_t tokens, int64_t cols);
  size_t (*scratch_bytes)(int64_t cols);
  // Makes a unit for weights of the type.
  void (*to_unit)(DType type, const float* const* x, int64_t tokens, int64_t cols, std::byte* out);
  // Makes a unit of the tokens of units that have one each.
  void (*gather)(const std::byte* const* units, int64_t tokens, int64_t cols, std::byte* out);
  void (*multiply)(const UnitTask& task);
};

}  // namespace hostler
