// AMX's tile registers. For files compiled with its instructions.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace hostler {
namespace {

// All eight tile registers as full tiles, while it lives. Tiles in use would be
// saved at every change of threads.
class TileState {
 public:
  TileState() {
    struct alignas(64) Config {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    // GCC 12's intrinsic says that it reads eight bytes.
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  ~TileState() { _tile_release(); }
  TileState(const TileState&) = delete;
  TileState& operator=(const TileState&) = delete;
};

}  // namespace
}  // namespace hostler
