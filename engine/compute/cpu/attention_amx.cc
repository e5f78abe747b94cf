// Attention with AMX's products of bf16. Every operand is the sum of two bf16, high
// and low, and of their four products the three largest are summed, in f32: that
// keeps 16 bits of q and of the weights, and all of a key or value in f16 or bf16.

#define HOSTLER_SIMD_AVX512
#include "engine/compute/cpu/amx_tiles.h"
#include "engine/compute/cpu/kernels.h"
#include "engine/compute/cpu/simd.h"

#define HOSTLER_LAMBDA_INLINE __attribute__((always_inline))

#include "engine/compute/cpu/attention_spans.inc"
#include "engine/compute/cpu/bf16_parts.inc"

namespace hostler {
namespace {

// An operand's tile, 16 rows of 64 bytes, high parts and then low parts.
constexpr int64_t kPartBytes = 1024;
constexpr int64_t kPairBytes = 2 * kPartBytes;
constexpr int64_t kPairFloats = kPairBytes / sizeof(float);
constexpr int kPairs = 16;    // two bf16 each, in a row of a tile
constexpr int kColumns = 16;  // of a product

// Pairs of tiles, in bytes: `tile` from one to the next, and `step` to where the
// sums go on.
struct Operand {
  const float* data;
  int64_t tile, step;

  const std::byte* at(int64_t i, int64_t s) const {
    return reinterpret_cast<const std::byte*>(data) + i * tile + s * step;
  }
};

// Where products go, rows `stride` floats apart.
struct Product {
  float* data;
  int64_t stride;
};

void StartSums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

void StoreSums(const Product (&c)[4]) {
  _tile_stored(0, c[0].data, c[0].stride * 4);
  _tile_stored(1, c[1].data, c[1].stride * 4);
  _tile_stored(2, c[2].data, c[2].stride * 4);
  _tile_stored(3, c[3].data, c[3].stride * 4);
}

// Every element of every product sums, step by step, low a · high b, high a · high b
// and high a · low b, whichever of these functions computes it. Where keys and values are
// bf16, kAWhole or kBWhole, there is no low part, which would add nothing.
template <bool kAWhole, bool kBWhole>
void Multiply2x2(const Operand& a, const Operand& b, int64_t steps, const Product (&c)[4]) {
  // What was stored before is what tiles load.
  __asm__ volatile("" ::: "memory");
  StartSums();
  for (int64_t s = 0; s < steps; ++s) {
    _tile_loadd(6, b.at(0, s), 64);
    if constexpr (!kAWhole) {
      _tile_loadd(4, a.at(0, s) + kPartBytes, 64);
      _tile_dpbf16ps(0, 4, 6);
    }
    _tile_loadd(7, b.at(1, s), 64);
    if constexpr (!kAWhole) {
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, a.at(1, s) + kPartBytes, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_loadd(4, a.at(0, s), 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a.at(1, s), 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    if constexpr (kBWhole) continue;
    _tile_loadd(6, b.at(0, s) + kPartBytes, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    _tile_loadd(7, b.at(1, s) + kPartBytes, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  StoreSums(c);
}

// Four tiles of rows `row` bytes apart, and where they go on for the next step.
struct Tiles {
  const std::byte* at[4];
  int64_t row, step;
};

// Goes on with the sums that are in tiles.
template <bool kAWhole>
void Add4x1(const Tiles& a, const Operand& b, int64_t steps) {
  __asm__ volatile("" ::: "memory");
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t at = s * a.step;
    _tile_loadd(4, b.at(0, s), 64);
    _tile_loadd(5, b.at(0, s) + kPartBytes, 64);
    if constexpr (!kAWhole) {
      _tile_loadd(6, a.at[0] + at + kPartBytes, a.row);
      _tile_dpbf16ps(0, 6, 4);
      _tile_loadd(7, a.at[1] + at + kPartBytes, a.row);
      _tile_dpbf16ps(1, 7, 4);
      _tile_loadd(6, a.at[2] + at + kPartBytes, a.row);
      _tile_dpbf16ps(2, 6, 4);
      _tile_loadd(7, a.at[3] + at + kPartBytes, a.row);
      _tile_dpbf16ps(3, 7, 4);
    }
    _tile_loadd(6, a.at[0] + at, a.row);
    _tile_dpbf16ps(0, 6, 4);
    _tile_loadd(7, a.at[1] + at, a.row);
    _tile_dpbf16ps(1, 7, 4);
    _tile_dpbf16ps(0, 6, 5);
    _tile_dpbf16ps(1, 7, 5);
    _tile_loadd(6, a.at[2] + at, a.row);
    _tile_dpbf16ps(2, 6, 4);
    _tile_loadd(7, a.at[3] + at, a.row);
    _tile_dpbf16ps(3, 7, 4);
    _tile_dpbf16ps(2, 6, 5);
    _tile_dpbf16ps(3, 7, 5);
  }
}

// Goes on with the sums that are there, or starts.
template <bool kBWhole>
void Multiply1x4(const Operand& a, const Operand& b, int64_t steps, bool start,
                 const Product (&c)[4]) {
  __asm__ volatile("" ::: "memory");
  if (start) {
    StartSums();
  } else {
    _tile_loadd(0, c[0].data, c[0].stride * 4);
    _tile_loadd(1, c[1].data, c[1].stride * 4);
    _tile_loadd(2, c[2].data, c[2].stride * 4);
    _tile_loadd(3, c[3].data, c[3].stride * 4);
  }
  for (int64_t s = 0; s < steps; ++s) {
    _tile_loadd(4, a.at(0, s), 64);
    _tile_loadd(5, a.at(0, s) + kPartBytes, 64);
    _tile_loadd(6, b.at(0, s), 64);
    _tile_dpbf16ps(0, 5, 6);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b.at(1, s), 64);
    _tile_dpbf16ps(1, 5, 7);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(6, b.at(2, s), 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, b.at(3, s), 64);
    _tile_dpbf16ps(3, 5, 7);
    _tile_dpbf16ps(3, 4, 7);
    if constexpr (kBWhole) continue;
    _tile_loadd(6, b.at(0, s) + kPartBytes, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b.at(1, s) + kPartBytes, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(6, b.at(2, s) + kPartBytes, 64);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, b.at(3, s) + kPartBytes, 64);
    _tile_dpbf16ps(3, 4, 7);
  }
  StoreSums(c);
}

// Values [at, at + 16) of a row of `dim`; zeros after its end, which a whole row has
// at a multiple of 16.
template <DType type, bool whole>
HOSTLER_INLINE F32x16 LoadValues(const std::byte* row, int64_t at, int64_t dim) {
  if constexpr (type == DType::kQ8_0) {  // whole blocks, with zeros at the end
    if (!whole && at >= dim) return Set(0);
    const std::byte* block = row + at / 32 * 34;
    return Mul(Set(ScalarF16(block)), LoadI8(block + 2 + at % 32));
  } else {
    __m256i bits;
    if constexpr (whole) {
      bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + at * 2));
    } else {
      const int64_t left = dim - at;
      const __mmask16 there = left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1;
      bits = _mm256_maskz_loadu_epi16(there, row + at * 2);
    }
    if constexpr (type == DType::kF16) return {_mm512_cvtph_ps(bits)};
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
}

class AmxAttention {
 public:
  static constexpr int kValueLanes = 4 * kColumns;

  AmxAttention(const AttentionTask& task, ScratchRuns& scratch)
      : task_(task),
        one_tile_(task.rows == 1 && task.heads <= kTile),
        whole_(task.type == DType::kBF16),
        key_tiles_(whole_ && task.k_dim % (2 * kPairs) == 0 && task.block_tokens % kTile == 0),
        k_steps_(RoundUp(task.k_dim, 2 * kPairs) / (2 * kPairs)),
        v_tiles_(RoundUp(task.v_dim, kValueLanes) / kColumns),
        q_(scratch.Take(RoundUp(Queries(task), kTile) / kTile * k_steps_ * kPairFloats)),
        k_(scratch.Take(kSpan / kTile * k_steps_ * kPairFloats)),
        v_(scratch.Take(kSpan / kGroup * v_tiles_ * kPairFloats)),
        scores_{scratch.Take(kSpan * kTile), scratch.Take(kSpan * kTile)},
        weights_{scratch.Take(kSpan * kTile), scratch.Take(kSpan * kTile)} {
    const int queries = Queries(task);
    for (int tile = 0; tile * kTile < queries; ++tile) {
      for (int64_t step = 0; step < k_steps_; ++step) ConvertQueries(tile, step);
    }
  }

  // See F32Attention::Convert. What one tile of one row needs is converted where it is
  // used, so that it stays in the first-level cache.
  bool Convert(int span, int begin, int end) {
    begin_ = begin;
    end_ = end;
    ForTokens(task_, span, begin, end, [&](int t, const std::byte* k, const std::byte* v) {
      k_rows_[t] = k;
      v_rows_[t] = v;
    });
    if (one_tile_) return true;
    ConvertKeys(0, kSpan, 0, k_steps_);
    return ConvertValues<true>(begin / kGroup * kGroup, static_cast<int>(RoundUp(end, kGroup)), 0);
  }

  void Scores(int tile, int tiles, int begin, int end) {
    const int64_t tile_bytes = k_steps_ * kPairBytes;
    const Operand q = {q_ + tile * k_steps_ * kPairFloats, tile_bytes, kPairBytes};
    const auto keys = [&](int t) {
      return Operand{k_ + t / kTile * k_steps_ * kPairFloats, tile_bytes, kPairBytes};
    };
    const auto to = [&](int i, int t) { return Product{scores_[i] + t * kTile, kTile}; };
    if (tiles == 2) {
      for (int t = begin; t < end; t += 2 * kTile) {
        const Product products[] = {to(0, t), to(1, t), to(0, t + 16), to(1, t + 16)};
        whole_ ? Multiply2x2<true, false>(keys(t), q, k_steps_, products)
               : Multiply2x2<false, false>(keys(t), q, k_steps_, products);
      }
      return;
    }
    // Some tokens too many, of no effect.
    for (int t = begin / kRun * kRun; t < end; t += kRun) {
      StartSums();
      if (one_tile_ && key_tiles_) {
        Add4x1<true>({{KeyTile(t), KeyTile(t + 16), KeyTile(t + 32), KeyTile(t + 48)},
                      static_cast<int64_t>(task_.k_row_bytes),
                      64},
                     q, k_steps_);
      } else if (one_tile_) {
        for (int64_t step = 0; step < k_steps_; step += kStepsAtOnce) {
          const int64_t after = step + kStepsAtOnce < k_steps_ ? step + kStepsAtOnce : k_steps_;
          ConvertKeys(t, t + kRun, step, after);
          const Operand q_part = {q.data + step * kPairFloats, tile_bytes, kPairBytes};
          AddKeys({k_, (after - step) * kPairBytes, kPairBytes}, q_part, after - step);
        }
      } else {
        AddKeys(keys(t), q, k_steps_);
      }
      StoreSums({to(0, t), to(0, t + 16), to(0, t + 32), to(0, t + 48)});
    }
  }

  float* scores(int i) { return scores_[i]; }

  void SoftmaxOfOne(const SeenTokens& seen, int begin, int end, float* largest, float* sum) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i column = _mm512_slli_epi32(lanes, 4);
    static_assert(kTile == 16);
    const auto load = [&](int t) HOSTLER_LAMBDA_INLINE {
      return F32x16{_mm512_i32gather_ps(column, scores_[0] + t * kTile, sizeof(float))};
    };
    const auto put = [&](int t, const float* weights) HOSTLER_LAMBDA_INLINE {
      const auto pick = [&](int at) HOSTLER_LAMBDA_INLINE {
        const __m512i which = _mm512_add_epi32(_mm512_slli_epi32(lanes, 1), _mm512_set1_epi32(at));
        return F32x16{_mm512_permutex2var_ps(_mm512_load_ps(weights), which,
                                             _mm512_load_ps(weights + kLanes))};
      };
      const Parts parts = SplitRounded(pick(0), pick(1));
      auto* to = reinterpret_cast<__m512i*>(weights_[0] + t / kGroup * kPairFloats);
      to[0] = parts.high;
      to[kPairs] = parts.low;
    };
    hostler::SoftmaxOfOne(task_, seen, begin, end, largest, sum, load, put);
  }

  void PutWeights(int i, int t, F32x16 even, F32x16 odd) {
    const int pair = t % kGroup / 2;
    const Parts parts = SplitRounded(even, odd);
    high_[pair] = parts.high;
    low_[pair] = parts.low;
    if (pair < kPairs - 1) return;
    auto* to = reinterpret_cast<__m512i*>(weights_[i] + t / kGroup * kPairFloats);
    Transpose(high_, to);
    Transpose(low_, to + kPairs);
  }

  void Values(int tiles, int begin, int end, float* out, int64_t stride) {
    const int64_t weights_bytes = (weights_[1] - weights_[0]) * int64_t{sizeof(float)};
    const auto weights = [&](int t) {
      return Operand{weights_[0] + t / kGroup * kPairFloats, weights_bytes, kPairBytes};
    };
    const auto values = [&](int64_t t, int64_t d) {
      return Operand{v_ + (t / kGroup * v_tiles_ + d) * kPairFloats, kPairBytes,
                     v_tiles_ * kPairBytes};
    };
    const auto to = [&](int64_t i, int64_t d) {
      return Product{out + i * kTile * stride + d * kColumns, stride};
    };
    if (tiles == 2) {
      for (int64_t d = 0; d < v_tiles_; d += 2) {
        const Product products[] = {to(0, d), to(0, d + 1), to(1, d), to(1, d + 1)};
        const int64_t steps = (end - begin) / kGroup;
        whole_ ? Multiply2x2<false, true>(weights(begin), values(begin, d), steps, products)
               : Multiply2x2<false, false>(weights(begin), values(begin, d), steps, products);
      }
      return;
    }
    const int run = one_tile_ ? kGroup : end - begin;
    if (one_tile_) state_.SetRows(Queries(task_));
    for (int t = begin; t < end; t += run) {
      const int after = t + run < end ? t + run : end;
      if (one_tile_) ConvertValues<false>(t, after, t);
      for (int64_t d = 0; d < v_tiles_; d += 4) {
        const Product products[] = {to(0, d), to(0, d + 1), to(0, d + 2), to(0, d + 3)};
        const Operand v = values(one_tile_ ? 0 : t, d);
        const int64_t steps = (after - t) / kGroup;
        whole_ ? Multiply1x4<true>(weights(t), v, steps, t == begin, products)
               : Multiply1x4<false>(weights(t), v, steps, t == begin, products);
      }
    }
    state_.SetRows(kTile);
  }

 private:
  // Tokens and steps of keys converted at a time for one tile of one row.
  static constexpr int kRun = 4 * kTile;
  static constexpr int64_t kStepsAtOnce = 2;
  // Fetches line `line` of a row of `bytes` that will be wanted soon, if there is one. One
  // line at a time, between the work on others, comes sooner than a whole row does.
  static HOSTLER_INLINE void Fetch(const std::byte* row, int64_t line, size_t bytes) {
    const size_t at = static_cast<size_t>(line) * 64;
    if (row != nullptr && at < bytes) __builtin_prefetch(row + at, 0, 2);
  }
  static constexpr int kTokensAhead = 16;

  void AddKeys(const Operand& keys, const Operand& q, int64_t steps) const {
    const Tiles tiles = {
        {keys.at(0, 0), keys.at(1, 0), keys.at(2, 0), keys.at(3, 0)}, 64, keys.step};
    whole_ ? Add4x1<true>(tiles, q, steps) : Add4x1<false>(tiles, q, steps);
  }

  // The rows of keys [t, t + 16) as they lie, or any if there are none. Of those the ones
  // that there are not may be anything.
  const std::byte* KeyTile(int t) const {
    if (t >= end_) t = (end_ - 1) / kTile * kTile;
    const int there = t < begin_ ? begin_ : t;
    return k_rows_[there] - static_cast<size_t>(there - t) * task_.k_row_bytes;
  }

  // A step's 32 dimensions of a tile's queries: pair p is dimensions p and p + 16, as
  // in ConvertKeys; for bf16 2 p and 2 p + 1.
  void ConvertQueries(int tile, int64_t step) {
    const F32x16 scale = Set(QueryScale(task_));
    const int left = Queries(task_) - tile * kTile, count = left < kTile ? left : kTile;
    __m512i high[kTile], low[kTile];
    for (int i = count; i < kTile; ++i) high[i] = low[i] = _mm512_setzero_si512();
    for (int i = 0; i < count; ++i) {
      const int64_t query = tile * kTile + i;
      float values[2 * kPairs] = {};
      const float* q = task_.q + query / task_.heads * task_.q_stride +
                       query % task_.heads * int64_t{task_.k_dim};
      const int64_t first = step * 2 * kPairs, there = task_.k_dim - first;
      std::memcpy(values, q + first,
                  static_cast<size_t>(there < 2 * kPairs ? there : 2 * kPairs) * sizeof(float));
      if (whole_) {
        float in_order[2 * kPairs];
        std::memcpy(in_order, values, sizeof values);
        for (int p = 0; p < kPairs; ++p) {
          values[p] = in_order[2 * p];
          values[kPairs + p] = in_order[2 * p + 1];
        }
      }
      const Parts parts = SplitRounded(Mul(Load(values), scale), Mul(Load(values + kPairs), scale));
      high[i] = parts.high;
      low[i] = parts.low;
    }
    auto* to = reinterpret_cast<__m512i*>(q_ + (tile * k_steps_ + step) * kPairFloats);
    Transpose(high, to);
    Transpose(low, to + kPairs);
  }

  // Calls f(loader) for the task's type; the loader is for whole rows or for any.
  template <typename F>
  HOSTLER_INLINE void ForLoader(bool whole, F f) const {
    const auto with = [&](auto load) HOSTLER_LAMBDA_INLINE {
      whole ? f(Loader<decltype(load)::kType, true>()) : f(Loader<decltype(load)::kType, false>());
    };
    switch (task_.type) {
      case DType::kF16:
        return with(Loader<DType::kF16, true>());
      case DType::kBF16:
        return with(Loader<DType::kBF16, true>());
      default:
        return with(Loader<DType::kQ8_0, true>());
    }
  }

  template <DType type, bool whole>
  struct Loader {
    static constexpr DType kType = type;
    static HOSTLER_INLINE F32x16 Load(const std::byte* row, int64_t at, int64_t dim) {
      return LoadValues<type, whole>(row, at, dim);
    }
    static HOSTLER_INLINE Parts Split(F32x16 a, F32x16 b) {
      if constexpr (type == DType::kQ8_0) return SplitRounded(a, b);  // up to 19 bits
      return SplitExact(a, b);
    }
  };

  // Steps [first_step, after_step) of tokens [first, after), of those that there are.
  void ConvertKeys(int first, int after, int64_t first_step, int64_t after_step) {
    ForLoader(task_.k_dim % (2 * kPairs) == 0, [&](auto loader) HOSTLER_LAMBDA_INLINE {
      using L = decltype(loader);
      const int begin = first > begin_ ? first : begin_, end = after < end_ ? after : end_;
      for (int t = begin; t < end; ++t) {
        const std::byte* ahead = t + kTokensAhead < end_ ? k_rows_[t + kTokensAhead] : nullptr;
        const std::byte* row = k_rows_[t];
        const int64_t dim = task_.k_dim;
        auto* to = reinterpret_cast<__m512i*>(k_ + (t - first) / kTile * (after_step - first_step) *
                                                       kPairFloats) +
                   t % kTile;
        for (int64_t step = first_step; step < after_step; ++step, to += 2 * kPairs) {
          const int64_t d = step * 2 * kPairs;
          if constexpr (L::kType == DType::kBF16) {
            const int64_t left = dim - d;
            const auto there = static_cast<__mmask32>(left < 2 * kPairs ? (1u << left) - 1 : ~0u);
            to[0] = _mm512_maskz_loadu_epi16(there, row + d * 2);
          } else {
            const Parts parts = L::Split(L::Load(row, d, dim), L::Load(row, d + kPairs, dim));
            to[0] = parts.high;
            to[kPairs] = parts.low;
          }
          Fetch(ahead, step, task_.k_row_bytes);
        }
      }
    });
  }

  // Those of tokens [first, after), zeros for those that there are not; `origin` is the
  // token at the start of v_. Returns whether all are finite, if kCheck.
  template <bool kCheck>
  bool ConvertValues(int first, int after, int origin) {
    F32x16 products = Set(0);
    ForLoader(task_.v_dim % kColumns == 0, [&](auto loader) HOSTLER_LAMBDA_INLINE {
      using L = decltype(loader);
      const int64_t dim = task_.v_dim, tiles = RoundUp(dim, kColumns) / kColumns;
      for (int t = first; t < after; t += 2) {
        const bool has_even = t >= begin_ && t < end_, has_odd = t + 1 >= begin_ && t + 1 < end_;
        const std::byte* ahead[2] = {};
        for (int i : {0, 1}) {
          const int token = t + kTokensAhead + i;
          if (token >= begin_ && token < end_) ahead[i] = v_rows_[token];
        }
        auto* to = reinterpret_cast<__m512i*>(v_ + (t - origin) / kGroup * v_tiles_ * kPairFloats) +
                   t % kGroup / 2;
        const auto put = [&](int64_t d, F32x16 even, F32x16 odd) HOSTLER_LAMBDA_INLINE {
          if constexpr (kCheck) products = Fma(even, Set(0), Fma(odd, Set(0), products));
          if constexpr (L::kType == DType::kBF16) {
            to[d * 2 * kPairs] = PairUpper(_mm512_castps_si512(even.v), _mm512_castps_si512(odd.v));
          } else {
            const Parts parts = L::Split(even, odd);
            to[d * 2 * kPairs] = parts.high;
            to[d * 2 * kPairs + kPairs] = parts.low;
          }
          Fetch(ahead[d % 2], d / 2, task_.v_row_bytes);
        };
        if (has_even && has_odd) {
          for (int64_t d = 0; d < tiles; ++d) {
            put(d, L::Load(v_rows_[t], d * kColumns, dim),
                L::Load(v_rows_[t + 1], d * kColumns, dim));
          }
        } else {
          for (int64_t d = 0; d < tiles; ++d) {
            put(d, has_even ? L::Load(v_rows_[t], d * kColumns, dim) : Set(0),
                has_odd ? L::Load(v_rows_[t + 1], d * kColumns, dim) : Set(0));
          }
        }
        for (int64_t d = tiles; d < v_tiles_; ++d) put(d, Set(0), Set(0));
      }
    });
    return HorizontalSum(products) == 0;
  }

  TileState state_;
  const AttentionTask& task_;
  const bool one_tile_;
  const bool whole_;       // keys and values have no low parts
  const bool key_tiles_;   // keys can be used as they lie
  const int64_t k_steps_;  // of 32 dimensions
  const int64_t v_tiles_;  // of 16 dimensions
  // Pairs of tiles: rows of pairs of dimensions by queries, tokens by pairs of
  // dimensions, pairs of tokens by dimensions, and queries by pairs of tokens.
  float* const q_;           // [tiles][k_steps]
  float* const k_;           // [kSpan / kTile][k_steps]
  float* const v_;           // [kSpan / kGroup][v_tiles]
  float* const scores_[2];   // [kSpan][kTile] of two tiles
  float* const weights_[2];  // [kSpan / kGroup] of two tiles
  // Of the span at hand, tokens [begin_, end_).
  const std::byte* k_rows_[kSpan];
  const std::byte* v_rows_[kSpan];
  int begin_ = 0, end_ = 0;
  __m512i high_[kPairs], low_[kPairs];  // weights of a group's pairs of tokens
};

}  // namespace

void AttentionByAmx(const AttentionTask& task) {
  if (task.type == DType::kF32) return kAvx512Kernels.attention(task);
  SpanAttention<AmxAttention>(task).Run();
}

void MergeAttentionByAmx(const AttentionTask& task) { MergeAttention(task); }

}  // namespace hostler
