#define HOSTLER_SIMD_AVX512
#include <cstring>

#include "engine/compute/cpu/bf16_split.h"
#include "engine/compute/cpu/simd.h"

#define HOSTLER_LAMBDA_INLINE __attribute__((always_inline))

#include "engine/compute/cpu/bf16_parts.inc"

namespace hostler {
namespace {

constexpr int kColumns = 32;          // that a step multiplies
constexpr int64_t kVectorBytes = 64;  // their weights, or one part of a token's inputs
constexpr int64_t kStepBytes = 2 * kVectorBytes;

int64_t Steps(int64_t cols) { return (cols + kColumns - 1) / kColumns; }

// ---- Inputs ----

// A unit has its tokens one after another, of each step the high parts and the low ones.
size_t TokenBytes(int64_t cols) { return static_cast<size_t>(Steps(cols) * kStepBytes); }

size_t UnitBytes(int64_t tokens, int64_t cols) {
  return static_cast<size_t>(tokens) * TokenBytes(cols);
}

void ToUnit(DType, const float* const* x, int64_t tokens, int64_t cols, std::byte* out) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t at = 0; at < cols; at += kColumns, out += kStepBytes) {
      const Parts parts = SplitColumns(x[t], at, cols);
      _mm512_storeu_si512(out, parts.high);
      _mm512_storeu_si512(out + kVectorBytes, parts.low);
    }
  }
}

void Gather(const std::byte* const* units, int64_t tokens, int64_t cols, std::byte* out) {
  const size_t bytes = TokenBytes(cols);
  for (int64_t t = 0; t < tokens; ++t, out += bytes) std::memcpy(out, units[t], bytes);
}

// ---- Products ----

HOSTLER_INLINE __m512 AddProducts(__m512 sum, __m512i w, const std::byte* x) {
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(x), (__m512bh)w);
}

// Rows [row, row + R) times T tokens, of which the first is at `x`.
template <int R, int T>
HOSTLER_INLINE void DotTile(const UnitTask& task, int64_t row, const std::byte* x,
                            float* const* y) {
  const int64_t token_bytes = static_cast<int64_t>(TokenBytes(task.cols));
  const std::byte* w[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) w[r] = task.w + static_cast<size_t>(row + r) * task.row_bytes;
  __m512 sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = _mm512_setzero_ps();
  }
  const auto multiply = [&](const __m512i* weights, int64_t step) HOSTLER_LAMBDA_INLINE {
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const std::byte* inputs = x + t * token_bytes + step * kStepBytes + part * kVectorBytes;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sums[r][t] = AddProducts(sums[r][t], weights[r], inputs);
      }
    }
  };
  const int64_t whole = task.cols / kColumns;
  for (int64_t step = 0; step < whole; ++step) {
    __m512i weights[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      // The rows after these, in the order in which they lie, into the second level.
      __builtin_prefetch(w[0] + R * task.row_bytes + (step * R + r) * kVectorBytes, 0, 2);
      weights[r] = _mm512_loadu_si512(w[r] + step * kVectorBytes);
    }
    multiply(weights, step);
  }
  if (const int64_t rest = task.cols % kColumns; rest > 0) {
    const auto there = static_cast<__mmask32>((uint64_t{1} << rest) - 1);
    __m512i weights[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      weights[r] = _mm512_maskz_loadu_epi16(there, w[r] + whole * kVectorBytes);
    }
    multiply(weights, whole);
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) y[t][row + r] = HorizontalSum({sums[r][t]});
  }
}

// Of a register tile.
constexpr int kTokens = 4;
static_assert(kUnitTokens % kTokens == 0);

// The tokens from `token` on, T at a time, then fewer.
template <int T>
void MultiplyTokens(const UnitTask& task, int64_t token) {
  constexpr int kRows = T == 1 ? 8 : 6;
  for (; token + T <= task.tokens; token += T) {
    const std::byte* x = task.x + static_cast<size_t>(token / kUnitTokens) * task.unit_bytes +
                         static_cast<size_t>(token % kUnitTokens) * TokenBytes(task.cols);
    float* const* y = task.y + token;
    int64_t row = 0;
    for (; row + kRows <= task.rows; row += kRows) DotTile<kRows, T>(task, row, x, y);
    for (; row < task.rows; ++row) DotTile<1, T>(task, row, x, y);
  }
  if constexpr (T > 1) MultiplyTokens<T - 1>(task, token);
}

void Multiply(const UnitTask& task) { MultiplyTokens<kTokens>(task, 0); }

size_t ScratchBytes(int64_t) { return 0; }

bool Has(DType type) { return type == DType::kBF16; }

}  // namespace

const UnitKernels kDotBf16SplitKernels = {
    .has = Has,
    .unit_bytes = UnitBytes,
    .scratch_bytes = ScratchBytes,
    .to_unit = ToUnit,
    .gather = Gather,
    .multiply = Multiply,
};

}  // namespace hostler
