#include "engine/compute/cpu/integer.inc"

namespace hostler {
namespace {

// Tile registers: the products with high and low bytes, the weights (16 rows of 32
// or 16 columns) and the inputs' high and low bytes.
class AmxTile {
 public:
  static constexpr bool kSigned = true;

  explicit AmxTile(int columns) {
    Config config;
    for (int tile : {0, 1}) config.Set(tile, 16, 64);
    config.Set(2, 16, columns);
    for (int tile : {3, 4}) config.Set(tile, columns / 4, 64);
    // GCC 12's intrinsic says that it reads eight bytes.
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  // Tiles in use would be saved at every change of threads.
  ~AmxTile() { _tile_release(); }
  AmxTile(const AmxTile&) = delete;
  AmxTile& operator=(const AmxTile&) = delete;

  // The tiles work on the next block while its predecessor's products are scaled.
  template <typename B>
  void Multiply(const RowPanel& panel, int64_t blocks, const InputTileBlock* x,
                float (*parts)[16][kInputTile]) const {
    Products products[2][2];  // alternately, of a block's halves if those have scales
    // What was stored before is what tiles load.
    __asm__ volatile("" ::: "memory");
    for (int64_t b = blocks; b < 4; ++b) std::memset(parts[b], 0, sizeof parts[b]);
    __m512 sums[16];
#pragma GCC unroll 16
    for (__m512& sum : sums) sum = _mm512_setzero_ps();
    const auto multiply_half = [&](int64_t b, int half, Products* out) HOSTLER_LAMBDA_INLINE {
      LoadTiles(panel, b, x[b], half);
      MultiplyTiles();
      _tile_stored(0, out[half].high, 64);
      _tile_stored(1, out[half].low, 64);
    };
    multiply_half(0, 0, products[0]);
    if constexpr (B::kHalves) multiply_half(0, 1, products[0]);
    int64_t b = 0;
    for (int64_t i = 0; i < blocks; ++i) {
      const bool last = b + 4 >= blocks;  // of this part
      const bool more = i + 1 < blocks;
      const int64_t next = last ? b % 4 + 1 : b + 4;
      const Products* done = products[i % 2];
      Products* out = products[(i + 1) % 2];
      // Among each other they use the core better than one after the other.
      if (more) LoadTiles(panel, next, x[next], 0);
      AddRows<B, 0, 4>(panel, b, x[b], done, sums);
      if (more) MultiplyTiles();
      AddRows<B, 4, 10>(panel, b, x[b], done, sums);
      if (more) _tile_stored(0, out->high, 64);
      AddRows<B, 10, 16>(panel, b, x[b], done, sums);
      if (more) _tile_stored(1, out->low, 64);
      if constexpr (B::kHalves) {
        if (more) multiply_half(next, 1, out);
      }
      if (last) {
#pragma GCC unroll 16
        for (int r = 0; r < 16; ++r) {
          _mm512_store_ps(parts[b % 4][r], sums[r]);
          sums[r] = _mm512_setzero_ps();
        }
      }
      b = next;
    }
  }

 private:
  struct alignas(64) Config {
    void Set(int tile, int tile_rows, int row_bytes) {
      rows[tile] = static_cast<uint8_t>(tile_rows);
      bytes[tile] = static_cast<uint16_t>(row_bytes);
    }
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  };

  struct alignas(64) Products {
    int32_t high[16][kInputTile];
    int32_t low[16][kInputTile];
  };

  static HOSTLER_INLINE void LoadTiles(const RowPanel& panel, int64_t b, const InputTileBlock& x,
                                       int half) {
    _tile_loadd(2, panel.quants + b * RowPanel::kQuantBytes + half * 16, kInputBlock);
    _tile_loadd(3, x.high[half * 4], 64);
    _tile_loadd(4, x.low[half * 4], 64);
  }

  static HOSTLER_INLINE void MultiplyTiles() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_dpbssd(0, 2, 3);
    _tile_dpbssd(1, 2, 4);
  }

  // Rows [from, to) of a block.
  template <typename B, int from, int to>
  static HOSTLER_INLINE void AddRows(const RowPanel& panel, int64_t b, const InputTileBlock& x,
                                     const Products* products, __m512* sums) {
    const float* scales = panel.scales + b * 16;
    const float* others = panel.others + b * 16;
    const __m512 x_scale = _mm512_load_ps(x.scale);
    const auto add = [&](const Products& p, int r, float scale) HOSTLER_LAMBDA_INLINE {
      sums[r] = AddScaled(JoinBytes(_mm512_load_si512(p.high[r]), _mm512_load_si512(p.low[r])),
                          _mm512_set1_ps(scale), x_scale, sums[r]);
    };
#pragma GCC unroll 16
    for (int r = from; r < to; ++r) {
      add(products[0], r, scales[r]);
      if constexpr (B::kHalves) add(products[1], r, others[r]);
      if constexpr (B::kMins) {
        sums[r] =
            _mm512_fnmadd_ps(_mm512_set1_ps(others[r]), _mm512_load_ps(x.scaled_sum), sums[r]);
      }
    }
  }
};

}  // namespace

const IntegerKernels kAmxIntegerKernels = {
    .tile_from = 4,
    .has = HasIntegers,
    .to_groups = ToGroups,
    .to_tile = ToTile,
    .multiply = Multiply,
    .multiply_tiles = MultiplyTiles<AmxTile>,
};

}  // namespace hostler
