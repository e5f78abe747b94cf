#include "engine/compute/bf16_tiles.h"

#include "engine/compute/quantize.h"

namespace hostler {

void PackBf16Tiles(const float* matrix, int64_t rows, int64_t cols, std::byte* out) {
  constexpr int64_t kPairs = kTileColumns / 2;
  float tile[kTileRows * kTileColumns];
  for (int64_t row = 0; row < rows; row += kTileRows) {
    for (int64_t col = 0; col < cols; col += kTileColumns) {
      for (int64_t r = 0; r < kTileRows; ++r) {
        const float* in = matrix + (row + r) * cols + col;
        for (int64_t k = 0; k < kPairs; ++k) {
          tile[(k * kTileRows + r) * 2] = in[2 * k];
          tile[(k * kTileRows + r) * 2 + 1] = in[2 * k + 1];
        }
      }
      ConvertRows(DType::kF32, DType::kBF16, reinterpret_cast<const std::byte*>(tile),
                  kTileRows * kTileColumns, out);
      out += kTileRows * kTileColumns * 2;
    }
  }
}

}  // namespace hostler
