// AMX's tile registers. For files compiled with its instructions.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace hostler {
namespace {

// All eight tile registers as full tiles, while it lives, or those before `kShortTiles` with
// fewer rows. Tiles in use would be saved at every change of threads.
class TileState {
 public:
  static constexpr int kShortTiles = 6;

  TileState() { SetRows(16); }
  ~TileState() { _tile_release(); }
  TileState(const TileState&) = delete;
  TileState& operator=(const TileState&) = delete;

  // Gives the short tiles so many rows: a product takes as long as its rows do. What is in
  // tiles is lost.
  void SetRows(int rows) {
    if (rows == rows_) return;
    rows_ = rows;
    struct alignas(64) Config {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    for (int tile = 0; tile < kShortTiles; ++tile) config.rows[tile] = static_cast<uint8_t>(rows);
    // GCC 12's intrinsic says that it reads eight bytes.
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
  }

 private:
  int rows_ = 0;
};

}  // namespace
}  // namespace hostler
