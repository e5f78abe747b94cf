#define HOSTLER_SIMD_AVX512
#include "engine/compute/cpu/bf16_split.h"

#include <cstring>
#include <type_traits>

#include "engine/compute/cpu/amx_tiles.h"
#include "engine/compute/cpu/simd.h"

#define HOSTLER_LAMBDA_INLINE __attribute__((always_inline))

#include "engine/compute/cpu/bf16_parts.inc"

namespace hostler {
namespace {

constexpr int kRows = 16;     // of weights: a panel
constexpr int kColumns = 32;  // that a step multiplies
constexpr int kPairs = kColumns / 2;
constexpr int kTileBytes = 1024;
constexpr int64_t kValueBytes = 2;  // of a weight
constexpr int64_t kStepBytes = kColumns * kValueBytes;

int64_t Steps(int64_t cols) { return (cols + kColumns - 1) / kColumns; }

// ---- Inputs ----

// A unit has for each step a tile of high parts and one of low parts; a tile has for each
// pair of columns a row with the tokens' pairs.
size_t PartBytes(int64_t tokens) { return static_cast<size_t>(kPairs * 4 * tokens); }

size_t UnitBytes(int64_t tokens, int64_t cols) {
  return static_cast<size_t>(Steps(cols)) * 2 * PartBytes(tokens);
}

void ToUnit(DType, const float* const* x, int64_t tokens, int64_t cols, std::byte* out) {
  __m512i high[kUnitTokens], low[kUnitTokens];
  for (int t = 0; t < kUnitTokens; ++t) high[t] = low[t] = _mm512_setzero_si512();
  const auto there = static_cast<__mmask16>((1 << tokens) - 1);
  for (int64_t at = 0; at < cols; at += kColumns) {
    for (int64_t t = 0; t < tokens; ++t) {
      const Parts parts = SplitColumns(x[t], at, cols);
      high[t] = parts.high;
      low[t] = parts.low;
    }
    for (const __m512i* part : {high, low}) {
      if (tokens == 1) {
        _mm512_storeu_si512(out, part[0]);
      } else {
        __m512i rows[kPairs];
        Transpose(part, rows);
        for (int k = 0; k < kPairs; ++k) {
          _mm512_mask_storeu_epi32(out + k * 4 * tokens, there, rows[k]);
        }
      }
      out += PartBytes(tokens);
    }
  }
}

void Gather(const std::byte* const* units, int64_t tokens, int64_t cols, std::byte* out) {
  const auto words = static_cast<int64_t>(UnitBytes(1, cols) / 4);
  for (int64_t i = 0; i < words; ++i) {
    for (int64_t t = 0; t < tokens; ++t) {
      std::memcpy(out + (i * tokens + t) * 4, units[t] + i * 4, 4);
    }
  }
}

// ---- Panels ----

// 16 rows; of fewer the others are zero.
struct Panel {
  const std::byte* rows = nullptr;
  int64_t row_bytes = 0;
  // Columns after the last whole step, then zeros: 16 rows of a step.
  const std::byte* tail = nullptr;
  __mmask16 there = 0;
};

size_t PanelScratchBytes(int64_t cols) {
  return static_cast<size_t>((kRows * cols * kValueBytes + 63) / 64 * 64 + kTileBytes);
}

// REQUIRES: row < task.rows; scratch has PanelScratchBytes(task.cols)
Panel PanelAt(const UnitTask& task, int64_t row, std::byte* scratch) {
  const int64_t left = task.rows - row, rest = task.cols % kColumns;
  Panel panel = {task.w + static_cast<size_t>(row) * task.row_bytes,
                 static_cast<int64_t>(task.row_bytes), scratch,
                 static_cast<__mmask16>(left < kRows ? (1 << left) - 1 : 0xffff)};
  if (rest > 0) {
    std::memset(scratch, 0, kTileBytes);
    for (int64_t r = 0; r < kRows && r < left; ++r) {
      std::memcpy(scratch + r * kStepBytes,
                  panel.rows + r * panel.row_bytes + (task.cols - rest) * kValueBytes,
                  static_cast<size_t>(rest * kValueBytes));
    }
  }
  if (left < kRows) {
    std::byte* const padded = scratch + kTileBytes;
    const size_t bytes = static_cast<size_t>(left) * task.row_bytes;
    std::memcpy(padded, panel.rows, bytes);
    std::memset(padded + bytes, 0, kRows * task.row_bytes - bytes);
    panel.rows = padded;
  }
  return panel;
}

// ---- Products ----

// Units of inputs at the same step, `unit_bytes` apart.
struct Inputs {
  const std::byte* data;
  size_t unit_bytes;
  int64_t tokens;  // of each
};

// Adds the products of `steps` to tile 2 p + u of panel p and unit u, in each the same in
// the same order.
template <int kPanels, int kUnits>
HOSTLER_INLINE void MultiplySteps(const std::byte* const (&rows)[2], int64_t row_bytes,
                                  const Inputs& x, int64_t steps) {
  const auto part_bytes = static_cast<int64_t>(PartBytes(x.tokens));
  const int64_t row = 4 * x.tokens;
  const auto multiply = [&]() HOSTLER_LAMBDA_INLINE {
    _tile_dpbf16ps(0, 6, 4);
    if constexpr (kPanels > 1) _tile_dpbf16ps(2, 7, 4);
    if constexpr (kUnits > 1) _tile_dpbf16ps(1, 6, 5);
    if constexpr (kPanels > 1 && kUnits > 1) _tile_dpbf16ps(3, 7, 5);
  };
  for (int64_t s = 0; s < steps; ++s) {
    const std::byte* const inputs = x.data + s * 2 * part_bytes;
    const auto load_inputs = [&](int64_t part) HOSTLER_LAMBDA_INLINE {
      _tile_loadd(4, inputs + part * part_bytes, row);
      if constexpr (kUnits > 1) _tile_loadd(5, inputs + x.unit_bytes + part * part_bytes, row);
    };
    _tile_loadd(6, rows[0] + s * kStepBytes, row_bytes);
    if constexpr (kPanels > 1) _tile_loadd(7, rows[1] + s * kStepBytes, row_bytes);
    load_inputs(0);
    multiply();
    load_inputs(1);
    multiply();
  }
}

// One panel or two.
class TilePanels {
 public:
  TilePanels(const UnitTask& task, int64_t row) : task_(task), row_(row) {
    panels_[0] = PanelAt(task, row, task.scratch);
    if (task.rows - row <= kRows) return;
    count_ = 2;
    panels_[1] = PanelAt(task, row + kRows, task.scratch + PanelScratchBytes(task.cols));
  }

  // y for all tokens.
  void Multiply(TileState& state) const {
    constexpr int64_t kTwo = 2 * kUnitTokens;
    int64_t token = 0;
    const auto units = [&](auto count, int64_t tokens) HOSTLER_LAMBDA_INLINE {
      state.SetWords(static_cast<int>(tokens));
      count_ == 2 ? MultiplyUnits<2, count>(token, tokens) : MultiplyUnits<1, count>(token, tokens);
    };
    for (; task_.tokens - token >= kTwo; token += kTwo) {
      units(std::integral_constant<int, 2>(), kUnitTokens);
    }
    for (; token < task_.tokens; token += kUnitTokens) {
      const int64_t left = task_.tokens - token;
      units(std::integral_constant<int, 1>(), left < kUnitTokens ? left : kUnitTokens);
    }
  }

 private:
  // Units of `tokens` each, the first of which begins with `token`.
  template <int kPanels, int kUnits>
  void MultiplyUnits(int64_t token, int64_t tokens) const {
    // What was stored before is what tiles load.
    __asm__ volatile("" ::: "memory");
    _tile_zero(0);
    if constexpr (kUnits > 1) _tile_zero(1);
    if constexpr (kPanels > 1) _tile_zero(2);
    if constexpr (kPanels > 1 && kUnits > 1) _tile_zero(3);
    Inputs x = {task_.x + static_cast<size_t>(token / kUnitTokens) * task_.unit_bytes,
                task_.unit_bytes, tokens};
    const int64_t whole = task_.cols / kColumns;
    MultiplySteps<kPanels, kUnits>({panels_[0].rows, panels_[1].rows}, panels_[0].row_bytes, x,
                                   whole);
    if (task_.cols % kColumns != 0) {
      x.data += static_cast<size_t>(whole) * 2 * PartBytes(tokens);
      MultiplySteps<kPanels, kUnits>({panels_[0].tail, panels_[1].tail}, kStepBytes, x, 1);
    }
    // Of fewer tokens not all of a row is written.
    alignas(64) __m512i sums[2][2][kRows];
    if (tokens < kUnitTokens) std::memset(sums, 0, sizeof sums);
    __asm__ volatile("" ::: "memory");
    _tile_stored(0, sums[0][0], 64);
    if constexpr (kUnits > 1) _tile_stored(1, sums[1][0], 64);
    if constexpr (kPanels > 1) _tile_stored(2, sums[0][1], 64);
    if constexpr (kPanels > 1 && kUnits > 1) _tile_stored(3, sums[1][1], 64);
    __asm__ volatile("" ::: "memory");
    for (int u = 0; u < kUnits; ++u) {
      for (int p = 0; p < kPanels; ++p) Store(sums[u][p], token + u * kUnitTokens, tokens, p);
    }
  }

  // sums: a panel's rows, each with its tokens.
  void Store(const __m512i* sums, int64_t token, int64_t tokens, int panel) const {
    __m512i out[kUnitTokens];
    Transpose(sums, out);
    for (int64_t t = 0; t < tokens; ++t) {
      float* const y = task_.y[token + t] + row_ + panel * kRows;
      _mm512_mask_storeu_epi32(y, panels_[panel].there, out[t]);
    }
  }

  const UnitTask& task_;
  const int64_t row_;
  int count_ = 1;
  Panel panels_[2];
};

void Multiply(const UnitTask& task) {
  TileState state;
  for (int64_t row = 0; row < task.rows; row += 2 * kRows) TilePanels(task, row).Multiply(state);
}

size_t ScratchBytes(int64_t cols) { return 2 * PanelScratchBytes(cols); }

bool Has(DType type) { return type == DType::kBF16; }

}  // namespace

const UnitKernels kAmxBf16SplitKernels = {
    .has = Has,
    .unit_bytes = UnitBytes,
    .scratch_bytes = ScratchBytes,
    .to_unit = ToUnit,
    .gather = Gather,
    .multiply = Multiply,
};

}  // namespace hostler
