// AMX's tile registers. For files compiled with its instructions.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace hostler {
namespace {

// All eight tile registers as full tiles, while it lives, or those before `kShortTiles` as
// smaller ones. Tiles in use would be saved at every change of threads.
class TileState {
 public:
  static constexpr int kShortTiles = 6;

  TileState() { SetRows(16); }
  ~TileState() { _tile_release(); }
  TileState(const TileState&) = delete;
  TileState& operator=(const TileState&) = delete;

  // Gives the short tiles so many rows: a product takes as long as its rows do. What is in
  // tiles is lost.
  void SetRows(int rows) { Set(rows, 64); }
  // Gives them 16 rows of so many words of four bytes.
  void SetWords(int words) { Set(16, 4 * words); }

 private:
  void Set(int rows, int row_bytes) {
    if (rows == rows_ && row_bytes == row_bytes_) return;
    rows_ = rows;
    row_bytes_ = row_bytes;
    struct alignas(64) Config {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    for (int tile = 0; tile < kShortTiles; ++tile) {
      config.rows[tile] = static_cast<uint8_t>(rows);
      config.bytes[tile] = static_cast<uint16_t>(row_bytes);
    }
    // GCC 12's intrinsic says that it reads eight bytes.
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
  }

  int rows_ = 0, row_bytes_ = 0;
};

}  // namespace
}  // namespace hostler
