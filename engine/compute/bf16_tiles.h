// Matrices as products of bf16 in AMX tiles take them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hostler {

inline constexpr int kTileRows = 16;
inline constexpr int kTileColumns = 32;

// A view of a [rows, cols] matrix in tiles of 16 rows by 32 columns, of 1 KiB: those of
// the first 16 rows, from left to right, then those of the next. In a tile stands, for
// columns 2 k and 2 k + 1 (k < 16), the pair of each row, one row's after another's.
struct Bf16Tiles {
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;

  static bool Fits(int64_t rows, int64_t cols) {
    return rows % kTileRows == 0 && cols % kTileColumns == 0;
  }
  size_t bytes() const { return static_cast<size_t>(rows * cols) * 2; }
};

// Writes the tiles of a matrix, rounded to nearest, to `out` (2 * rows * cols bytes).
// REQUIRES: Bf16Tiles::Fits(rows, cols)
void PackBf16Tiles(const float* matrix, int64_t rows, int64_t cols, std::byte* out);

}  // namespace hostler
