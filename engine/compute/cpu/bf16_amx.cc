// Products of bf16 in AMX tiles, summed in f32 over all columns within a tile register.

#include "engine/compute/cpu/amx_tiles.h"
#include "engine/compute/cpu/kernels.h"

namespace hostler {
namespace {

constexpr int64_t kTileBytes = 1024;
constexpr int kSide = 16;  // tokens and rows of a tile of sums

// Lines to fetch meanwhile, `each` of them in every step.
struct Ahead {
  const std::byte* next;
  int64_t each;
};

// Sums of kTokenTiles times kPanels tiles, at most 2 x 2: tiles 0 to 3.
template <int kTokenTiles, int kPanels>
void MultiplyTiles(const std::byte* x, const std::byte* w, int64_t steps, Ahead ahead,
                   float* sums) {
  const int64_t run = steps * kTileBytes;  // to the next tokens, or panel
  _tile_zero(0);
  if constexpr (kPanels > 1) _tile_zero(1);
  if constexpr (kTokenTiles > 1) _tile_zero(2);
  if constexpr (kTokenTiles > 1 && kPanels > 1) _tile_zero(3);
  for (int64_t s = 0; s < steps; ++s, x += kTileBytes, w += kTileBytes) {
    for (int64_t i = 0; i < ahead.each; ++i, ahead.next += 64)
      _mm_prefetch(ahead.next, _MM_HINT_T1);
    _tile_loadd(4, x, 64);
    _tile_loadd(6, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kPanels > 1) {
      _tile_loadd(7, w + run, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kTokenTiles > 1) {
      _tile_loadd(5, x + run, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (kTokenTiles > 1 && kPanels > 1) _tile_dpbf16ps(3, 5, 7);
  }
  constexpr int64_t kTileFloats = kSide * kSide;
  _tile_stored(0, sums, 64);
  if constexpr (kPanels > 1) _tile_stored(1, sums + kTileFloats, 64);
  if constexpr (kTokenTiles > 1) _tile_stored(2, sums + 2 * kTileFloats, 64);
  if constexpr (kTokenTiles > 1 && kPanels > 1) _tile_stored(3, sums + 3 * kTileFloats, 64);
}

}  // namespace

void MatMulBf16ByAmx(const Bf16Task& task) {
  const TileState state;
  alignas(64) float sums[2][2][kSide][kSide];
  const int64_t run = task.steps * kTileBytes;
  for (int64_t panel = 0; panel < task.panels; panel += 2) {
    const int panels = task.panels - panel > 1 ? 2 : 1;
    const std::byte* w = task.w + panel * run;
    // The next two panels come from far, and there is time while these are used.
    const int64_t turns = (task.tokens + 2 * kSide - 1) / (2 * kSide);
    Ahead ahead = {w + 2 * run, (2 * kTileBytes / 64 + turns - 1) / turns};
    for (int64_t token = 0; token < task.tokens; token += 2 * kSide) {
      const std::byte* x = task.x + token / kSide * run;
      const int64_t left = task.tokens - token;
      // What was stored before is what tiles load.
      __asm__ volatile("" ::: "memory");
      if (left > kSide) {
        panels == 2 ? MultiplyTiles<2, 2>(x, w, task.steps, ahead, sums[0][0][0])
                    : MultiplyTiles<2, 1>(x, w, task.steps, ahead, sums[0][0][0]);
      } else {
        panels == 2 ? MultiplyTiles<1, 2>(x, w, task.steps, ahead, sums[0][0][0])
                    : MultiplyTiles<1, 1>(x, w, task.steps, ahead, sums[0][0][0]);
      }
      ahead.next += ahead.each * task.steps * 64;
      __asm__ volatile("" ::: "memory");
      for (int p = 0; p < panels; ++p) {
        const int64_t first = (panel + p) * kSide;
        const __m512 bias = _mm512_loadu_ps(task.bias + first);
        for (int64_t t = 0; t < 2 * kSide && t < left; ++t) {
          const __m512 sum = _mm512_load_ps(sums[t / kSide][p][t % kSide]);
          _mm512_storeu_ps(task.y + (token + t) * task.y_stride + first, _mm512_add_ps(sum, bias));
        }
      }
    }
  }
}

}  // namespace hostler
