#define HOSTLER_INPUT_BYTES 2
#include <type_traits>

#include "engine/compute/cpu/integer.inc"

namespace hostler {
namespace {

template <int kTile>
HOSTLER_INLINE void LoadTile(const void* p, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "n"(kTile));
}

template <int kTile>
HOSTLER_INLINE void StoreTile(void* p) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(int64_t{64}), "n"(kTile)
                   : "memory");
}

// kSum = kInputs · kWeights, where weights are signed bytes or not.
template <bool kSigned, int kSum, int kInputs, int kWeights>
HOSTLER_INLINE void MultiplyTiles() {
  __asm__ volatile("tilezero %%tmm%c0" ::"n"(kSum));
  if constexpr (kSigned) {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"n"(kSum), "n"(kInputs),
                     "n"(kWeights));
  } else {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"n"(kSum), "n"(kInputs),
                     "n"(kWeights));
  }
}

struct alignas(64) TileConfig {
  void Set(int tile, int64_t tile_rows, int row_bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    bytes[tile] = static_cast<uint16_t>(row_bytes);
  }
  void Load() const { __asm__ volatile("ldtilecfg %0" ::"m"(*this)); }
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// So many blocks of a panel are prepared and multiplied at a time that they stay in the
// first-level cache, and so many units at most.
constexpr int64_t kSegmentBlocks = 2 * kGroupBlocks;
constexpr int64_t kMaxUnits = kMaxUnitTaskTokens / kUnitTokens;

// The products of a panel with units of tokens. A tile of inputs has a token in each row
// and one of weights four columns, of 16 weight rows, so that a tile of sums has the
// tokens one below the other. Weights stand in a tile twice, shifted and not, under the
// inputs' high and low bytes, so that one instruction does both. Where shifted ones do
// not fit a byte there is a tile of sums for each.
template <typename P>
class AmxPanel {
 public:
  explicit AmxPanel(int64_t cols) : blocks_(cols / kInputBlock) {}
  // Tiles in use would be saved at every change of threads.
  ~AmxPanel() { __asm__ volatile("tilerelease"); }
  AmxPanel(const AmxPanel&) = delete;
  AmxPanel& operator=(const AmxPanel&) = delete;

  // The task's y[t][r] for the panel at `row`: whole units and a rest.
  void Multiply(const StoredPanel<P>& panel, const UnitTask& task, int64_t row) {
    const int64_t units = task.tokens / kUnitTokens, rest = task.tokens % kUnitTokens;
    for (int64_t first = 0; first < blocks_; first += kSegmentBlocks) {
      const int64_t left = blocks_ - first;
      Prepare(panel, first, left < kSegmentBlocks ? left : kSegmentBlocks);
      if (units > 0) {
        Configure(kUnitTokens);
        MultiplyUnits<true>(task.x, task.unit_bytes, kUnitTokens, units, sums_[0]);
      }
      if (rest > 0) {
        Configure(rest);
        MultiplyUnits<false>(task.x + static_cast<size_t>(units) * task.unit_bytes, 0, rest, 1,
                             sums_[units]);
      }
    }
    const __mmask16 rows = RowMask(task, row);
    for (int64_t t = 0; t < task.tokens; ++t) {
      const __m512 sum = _mm512_load_ps(sums_[t / kUnitTokens][t % kUnitTokens]);
      _mm512_mask_storeu_ps(task.y[t] + row, rows, sum);
    }
  }

 private:
  static constexpr bool kApart = P::kShift == 8;
  static constexpr bool kSigned = P::kOffset != 0;
  // Two tiles of sums a block: of high and low bytes, or of halves.
  static constexpr bool kTwoSums = kApart || P::kHalves;
  static constexpr int kBlockBytes = kApart ? 512 : 1024;

  struct alignas(64) Products {
    int32_t sums[kTwoSums ? 2 : 1][kUnitTokens][kRows];
  };

  // A group of a unit, of `blocks` blocks that are at most kGroupBlocks.
  struct Group {
    const std::byte* x;  // its first block's
    int64_t block;       // of the segment
    int64_t blocks;
  };

  // Makes blocks [first, first + count) the segment.
  void Prepare(const StoredPanel<P>& panel, int64_t first, int64_t count) {
    first_ = first;
    count_ = count;
    for (int64_t b = 0; b < count; ++b) {
      __m512 scales, others = _mm512_setzero_ps();
      panel.Scales(first + b, &scales, &others);
      _mm512_store_ps(scales_[b][0], scales);
      _mm512_store_ps(scales_[b][1], others);
      std::byte* out = quants_[b];
      const auto store = [&](int k, __m512i quants) HOSTLER_LAMBDA_INLINE {
        const __m512i w =
            kSigned ? _mm512_sub_epi8(quants, _mm512_set1_epi8(static_cast<char>(P::kOffset)))
                    : quants;
        if constexpr (kApart) {
          _mm512_store_si512(out + k * 64, w);
        } else {
          // Halves have their tiles one after the other.
          constexpr int kFours = P::kHalves ? 4 : 8;
          std::byte* tile = out + k / kFours * 512 + k % kFours * 64;
          _mm512_store_si512(tile, Masked(_mm512_slli_epi16(w, P::kShift), 0xff << P::kShift));
          _mm512_store_si512(tile + kFours * 64, w);
        }
      };
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        __m512i low, high;
        panel.Pair(first + b, k, &low, &high);
        panel.Fetch(first + b, 2 * k);
        store(k, low);
        panel.Fetch(first + b, 2 * k + 1);
        store(k + 4, high);
      }
    }
    // What was stored is what tiles load.
    __asm__ volatile("" ::: "memory");
  }

  void Configure(int64_t tokens) {
    if (tokens == configured_) return;
    configured_ = tokens;
    TileConfig config;
    for (int tile : {0, 1, 2, 3}) config.Set(tile, tokens, 64);
    for (int tile : {4, 5}) config.Set(tile, tokens, kTwoSums ? 32 : 64);
    for (int tile : {6, 7}) config.Set(tile, kTwoSums ? 8 : 16, 64);
    config.Load();
  }

  // Adds the segment's products with units of `tokens` each, 16 if kFull, to
  // sums[tokens][kRows] of each.
  template <bool kFull>
  void MultiplyUnits(const std::byte* x, size_t unit_bytes, int64_t tokens, int64_t units,
                     float (*sums_of_units)[kRows]) {
    if (kFull) tokens = kUnitTokens;
    const size_t block_bytes = UnitBlock::Bytes(tokens);
    x += block_bytes * static_cast<size_t>(first_);
    const auto group = [&](int64_t block) {
      const int64_t left = count_ - block;
      return Group{x + block_bytes * static_cast<size_t>(block), block,
                   left < kGroupBlocks ? left : kGroupBlocks};
    };
    Group at = group(0);
    MultiplyGroup(at, tokens, products_[0]);
    int turn = 0;
    for (int64_t unit = 0; unit < units; ++unit, sums_of_units += kUnitTokens) {
      __m512 sums[kUnitTokens];
#pragma GCC unroll 16
      for (int t = 0; t < kUnitTokens; ++t) {
        sums[t] = first_ == 0 ? _mm512_setzero_ps() : _mm512_load_ps(sums_of_units[t]);
      }
      for (int64_t block = 0; block < count_; block += kGroupBlocks) {
        Group next = {x, 0, 0};
        if (block + kGroupBlocks < count_) {
          next = group(block + kGroupBlocks);
        } else if (unit + 1 < units) {
          x += unit_bytes;
          next = group(0);
        }
        const Products* done = products_[turn];
        turn = 1 - turn;
        // Tiles work on the next group while this one's sums are scaled; among each other
        // they use the core better than one after the other.
        const auto steps = [&](auto whole) HOSTLER_LAMBDA_INLINE {
          Step<0, kFull, whole>(at, next, tokens, done, products_[turn], sums);
          Step<1, kFull, whole>(at, next, tokens, done, products_[turn], sums);
          Step<2, kFull, whole>(at, next, tokens, done, products_[turn], sums);
          Step<3, kFull, whole>(at, next, tokens, done, products_[turn], sums);
        };
        if (at.blocks == kGroupBlocks && next.blocks == kGroupBlocks) {
          steps(std::true_type());
        } else {
          steps(std::false_type());
        }
        at = next;
      }
#pragma GCC unroll 16
      for (int t = 0; t < kUnitTokens; ++t) _mm512_store_ps(sums_of_units[t], sums[t]);
    }
  }

  template <int i>
  HOSTLER_INLINE void MultiplyBlock(const Group& group, int64_t tokens, Products* out) const {
    const std::byte* x = group.x + i * UnitBlock::Bytes(tokens);
    const std::byte* w = quants_[group.block + i];
    if constexpr (kTwoSums) {
      constexpr int kSum = i % 2 * 2;
      constexpr int kSecond = kApart ? 6 : 7;
      LoadTile<4>(x, 64);
      LoadTile<5>(x + 32, 64);
      LoadTile<6>(w, 64);
      if constexpr (!kApart) LoadTile<7>(w + 512, 64);
      MultiplyTiles<kSigned, kSum, 4, 6>();
      MultiplyTiles<kSigned, kSum + 1, 5, kSecond>();
      StoreTile<kSum>(out[i].sums[0]);
      StoreTile<kSum + 1>(out[i].sums[1]);
    } else {
      LoadTile<4 + i % 2>(x, 64);
      LoadTile<6 + i % 2>(w, 64);
      MultiplyTiles<kSigned, i, 4 + i % 2, 6 + i % 2>();
      StoreTile<i>(out[i].sums[0]);
    }
  }

  void MultiplyGroup(const Group& group, int64_t tokens, Products* out) const {
    MultiplyBlock<0>(group, tokens, out);
    if (group.blocks > 1) MultiplyBlock<1>(group, tokens, out);
    if (group.blocks > 2) MultiplyBlock<2>(group, tokens, out);
    if (group.blocks > 3) MultiplyBlock<3>(group, tokens, out);
  }

  // A quarter of the work on two groups, which are whole if kWhole: tiles for block i of
  // the next, sums of tokens [4 i, 4 i + 4) of `at`.
  template <int i, bool kFull, bool kWhole>
  HOSTLER_INLINE void Step(const Group& at, const Group& next, int64_t tokens, const Products* done,
                           Products* out, __m512* sums) const {
    if (kWhole || i < next.blocks) MultiplyBlock<i>(next, tokens, out);
    if (!kFull && 4 * i >= tokens) return;
    const int64_t blocks = kWhole ? kGroupBlocks : at.blocks;
    __m512 parts[4];
#pragma GCC unroll 4
    for (__m512& part : parts) part = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int64_t s = 0; s < blocks; ++s) {
      const __m512 scales = _mm512_load_ps(scales_[at.block + s][0]);
      const __m512 others = _mm512_load_ps(scales_[at.block + s][1]);
      const UnitBlock x(at.x, s, tokens);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const int t = 4 * i + j;
        __m512i product = _mm512_load_si512(done[s].sums[0][t]);
        if constexpr (kApart) {
          product = _mm512_add_epi32(_mm512_slli_epi32(product, P::kShift),
                                     _mm512_load_si512(done[s].sums[1][t]));
        }
        parts[j] = MultiplyAdd(product, scales, parts[j]);
        if constexpr (P::kHalves) {
          parts[j] = MultiplyAdd(_mm512_load_si512(done[s].sums[1][t]), others, parts[j]);
        }
        if constexpr (P::kMins) {
          if (kFull || t < tokens) {
            parts[j] = _mm512_fnmadd_ps(others, _mm512_set1_ps(x.sum(t)), parts[j]);
          }
        }
      }
    }
    const UnitBlock x(at.x, 0, tokens);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int t = 4 * i + j;
      if (kFull || t < tokens) {
        sums[t] = _mm512_fmadd_ps(parts[j], _mm512_set1_ps(x.scale(t)), sums[t]);
      }
    }
  }

  const int64_t blocks_;
  int64_t configured_ = 0;         // tokens
  int64_t first_ = 0, count_ = 0;  // the segment
  // Of tokens that there are not sums are computed and dropped.
  Products products_[2][kGroupBlocks] = {};  // alternately, of a group's blocks
  alignas(64) std::byte quants_[kSegmentBlocks][kBlockBytes];
  alignas(64) float scales_[kSegmentBlocks][2][kRows];
  alignas(64) float sums_[kMaxUnits][kUnitTokens][kRows];
};

// From so many tokens on tiles are better.
constexpr int64_t kTileFrom = 5;

void Multiply(const UnitTask& task) {
  ForIntegerType(task.type, [&](auto type) {
    using P = decltype(type);
    if (task.tokens < kTileFrom) {
      return ForPanels<P>(task, [&](const StoredPanel<P>& panel, int64_t row) {
        MultiplyUnitOf<P, kTileFrom - 1>(task, panel, row, 0);
      });
    }
    AmxPanel<P> tiles(task.cols);
    ForPanels<P>(
        task, [&](const StoredPanel<P>& panel, int64_t row) { tiles.Multiply(panel, task, row); });
  });
}

bool Has(DType type) {
  return ForIntegerType(type, [](auto) {});
}

}  // namespace

const UnitKernels kAmxIntegerKernels = {
    .has = Has,
    .unit_bytes = UnitBytes,
    .scratch_bytes = ScratchBytes,
    .to_unit = ToUnit,
    .gather = Gather,
    .multiply = Multiply,
};

}  // namespace hostler
