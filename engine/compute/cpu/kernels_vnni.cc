#include "engine/compute/cpu/integer.inc"

namespace hostler {
namespace {

struct VnniTile {
  static constexpr bool kSigned = false;
  explicit VnniTile(int) {}

  template <typename B>
  void Multiply(const RowPanel& panel, int64_t blocks, const InputTileBlock* x,
                float (*parts)[16][kInputTile]) const {
    for (int part = 0; part < 4; ++part) {
      for (int row = 0; row < 16; row += kRows) {
        __m512 sums[kRows];
        for (__m512& sum : sums) sum = _mm512_setzero_ps();
        for (int64_t b = part; b < blocks; b += 4) {
          const float* scales = panel.scales + b * 16 + row;
          const float* others = panel.others + b * 16 + row;
          const int8_t* quants = panel.quants + b * RowPanel::kQuantBytes + row * kInputBlock;
          if constexpr (B::kHalves) {
            AddBlock<B, 0, 4>(quants, scales, x[b], _mm512_load_si512(x[b].sum[0]), sums);
            AddBlock<B, 4, 8>(quants, others, x[b], _mm512_load_si512(x[b].sum[1]), sums);
          } else {
            const __m512i sum =
                _mm512_add_epi32(_mm512_load_si512(x[b].sum[0]), _mm512_load_si512(x[b].sum[1]));
            AddBlock<B, 0, 8>(quants, scales, x[b], sum, sums);
          }
          if constexpr (B::kMins) {
            for (int r = 0; r < kRows; ++r) {
              sums[r] = _mm512_fnmadd_ps(_mm512_set1_ps(others[r]), _mm512_load_ps(x[b].scaled_sum),
                                         sums[r]);
            }
          }
        }
        for (int r = 0; r < kRows; ++r) _mm512_store_ps(parts[part][row + r], sums[r]);
      }
    }
  }

 private:
  static constexpr int kRows = 8;

  // Columns [4 from, 4 to) of a block.
  template <typename B, int from, int to>
  static HOSTLER_INLINE void AddBlock(const int8_t* quants, const float* scales,
                                      const InputTileBlock& x, __m512i x_sum, __m512* sums) {
    __m512i high[kRows], low[kRows];
    for (int r = 0; r < kRows; ++r) high[r] = low[r] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int k = from; k < to; ++k) {
      const __m512i x_high = _mm512_load_si512(x.high[k]);
      const __m512i x_low = _mm512_load_si512(x.low[k]);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        int32_t four;
        std::memcpy(&four, quants + r * kInputBlock + k * 4, sizeof four);
        const __m512i w = _mm512_set1_epi32(four);
        high[r] = _mm512_dpbusd_epi32(high[r], w, x_high);
        low[r] = _mm512_dpbusd_epi32(low[r], w, x_low);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      sums[r] = AddScaled(WithoutOffset<B::kOffset>(JoinBytes(high[r], low[r]), x_sum),
                          _mm512_set1_ps(scales[r]), _mm512_load_ps(x.scale), sums[r]);
    }
  }
};

}  // namespace

const IntegerKernels kVnniIntegerKernels = {
    .tile_from = 6,
    .has = HasIntegers,
    .to_groups = ToGroups,
    .to_tile = ToTile,
    .multiply = Multiply,
    .multiply_tiles = MultiplyTiles<VnniTile>,
};

}  // namespace hostler
