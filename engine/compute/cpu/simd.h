// F32x16: sixteen f32 lanes, for the instruction set this file is compiled for
// (HOSTLER_SIMD_AVX512, HOSTLER_SIMD_AVX2 or neither). Only kernels_*.cc may
// include it, and everything in it has internal linkage: code built with
// one instruction set's flags must not be merged with code built without them.
//
// All three add the lanes of a HorizontalSum in the same order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(HOSTLER_SIMD_AVX512) || defined(HOSTLER_SIMD_AVX2)
#include <immintrin.h>
#else
#include "engine/compute/half.h"
#endif

namespace hostler {
namespace {

#define HOSTLER_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 16;

#if defined(HOSTLER_SIMD_AVX512)

constexpr char kIsa[] = "avx512";
// Sizes of the register tile of MatMul: 24 accumulators, and 8 for one token.
constexpr int kTileRows = 4;
constexpr int kTileTokens = 6;
constexpr int kVectorRows = 8;
// Attention's register tiles: of scores, lanes summed apart, tokens and tiles of 16
// queries; of values, queries and vectors of dimensions.
constexpr int kScoreLanes = 2;
constexpr int kScoreTokens = 4;
constexpr int kScoreTiles = 2;
constexpr int kValueQueries = 8;
constexpr int kValueVectors = 2;

struct F32x16 {
  __m512 v;
};

HOSTLER_INLINE F32x16 Set(float x) { return {_mm512_set1_ps(x)}; }
HOSTLER_INLINE F32x16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
HOSTLER_INLINE F32x16 LoadF16(const std::byte* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
HOSTLER_INLINE F32x16 LoadBf16(const std::byte* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
HOSTLER_INLINE F32x16 LoadI8(const std::byte* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
HOSTLER_INLINE float ScalarF16(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return _cvtsh_ss(bits);
}
HOSTLER_INLINE void Store(F32x16 a, float* p) { _mm512_storeu_ps(p, a.v); }
HOSTLER_INLINE void StoreF16(F32x16 a, std::byte* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
HOSTLER_INLINE void StoreBf16(F32x16 a, std::byte* p) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(
      _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(result));
}
HOSTLER_INLINE F32x16 Add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
HOSTLER_INLINE F32x16 Sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
HOSTLER_INLINE F32x16 Mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
HOSTLER_INLINE F32x16 Div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
// a * b + c
HOSTLER_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// b where either is NaN
HOSTLER_INLINE F32x16 Max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
HOSTLER_INLINE F32x16 Min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
// Lanes of v, zero where x < limit.
HOSTLER_INLINE F32x16 ZeroBelow(F32x16 x, F32x16 limit, F32x16 v) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_NLT_UQ), v.v)};
}
// Lanes of v, those of w where x < limit.
HOSTLER_INLINE F32x16 Select(F32x16 x, F32x16 limit, F32x16 v, F32x16 w) {
  return {_mm512_mask_mov_ps(w.v, _mm512_cmp_ps_mask(x.v, limit.v, _CMP_NLT_UQ), v.v)};
}
// 2^n. REQUIRES: n integral, -126 <= n <= 127
HOSTLER_INLINE F32x16 PowerOfTwo(F32x16 n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}
HOSTLER_INLINE __m256 LowerHalf(F32x16 a) { return _mm512_castps512_ps256(a.v); }
HOSTLER_INLINE __m256 UpperHalf(F32x16 a) { return _mm512_extractf32x8_ps(a.v, 1); }

#elif defined(HOSTLER_SIMD_AVX2)

constexpr char kIsa[] = "avx2";
// Two ymm registers a value: 12 accumulators, and activations as operands of the
// multiply-adds; 8 for one token.
constexpr int kTileRows = 1;
constexpr int kTileTokens = 6;
constexpr int kVectorRows = 4;
constexpr int kScoreLanes = 2;
constexpr int kScoreTokens = 2;
constexpr int kScoreTiles = 1;
constexpr int kValueQueries = 4;
constexpr int kValueVectors = 1;

struct F32x16 {
  __m256 lo, hi;
};

HOSTLER_INLINE F32x16 Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
HOSTLER_INLINE F32x16 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
HOSTLER_INLINE __m128i Load128(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
HOSTLER_INLINE F32x16 LoadF16(const std::byte* p) {
  return {_mm256_cvtph_ps(Load128(p)), _mm256_cvtph_ps(Load128(p + 16))};
}
HOSTLER_INLINE __m256 WidenBf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
HOSTLER_INLINE F32x16 LoadBf16(const std::byte* p) {
  return {WidenBf16(Load128(p)), WidenBf16(Load128(p + 16))};
}
HOSTLER_INLINE F32x16 LoadI8(const std::byte* p) {
  const __m128i bytes = Load128(p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
HOSTLER_INLINE float ScalarF16(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return _cvtsh_ss(bits);
}
HOSTLER_INLINE void Store(F32x16 a, float* p) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
HOSTLER_INLINE void Store128(__m128i bits, std::byte* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bits);
}
HOSTLER_INLINE void StoreF16(F32x16 a, std::byte* p) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  Store128(_mm256_cvtps_ph(a.lo, kNearest), p);
  Store128(_mm256_cvtps_ph(a.hi, kNearest), p + 16);
}
HOSTLER_INLINE __m128i NarrowBf16(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i result = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
}
HOSTLER_INLINE void StoreBf16(F32x16 a, std::byte* p) {
  Store128(NarrowBf16(a.lo), p);
  Store128(NarrowBf16(a.hi), p + 16);
}
HOSTLER_INLINE F32x16 Add(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
HOSTLER_INLINE F32x16 Sub(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
HOSTLER_INLINE F32x16 Mul(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
HOSTLER_INLINE F32x16 Div(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
// a * b + c
HOSTLER_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// b where either is NaN
HOSTLER_INLINE F32x16 Max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
HOSTLER_INLINE F32x16 Min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
// Lanes of v, zero where x < limit.
HOSTLER_INLINE F32x16 ZeroBelow(F32x16 x, F32x16 limit, F32x16 v) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.lo, limit.lo, _CMP_NLT_UQ), v.lo),
          _mm256_and_ps(_mm256_cmp_ps(x.hi, limit.hi, _CMP_NLT_UQ), v.hi)};
}
// Lanes of v, those of w where x < limit.
HOSTLER_INLINE F32x16 Select(F32x16 x, F32x16 limit, F32x16 v, F32x16 w) {
  return {_mm256_blendv_ps(w.lo, v.lo, _mm256_cmp_ps(x.lo, limit.lo, _CMP_NLT_UQ)),
          _mm256_blendv_ps(w.hi, v.hi, _mm256_cmp_ps(x.hi, limit.hi, _CMP_NLT_UQ))};
}
HOSTLER_INLINE __m256 PowerOfTwo256(__m256 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
// 2^n. REQUIRES: n integral, -126 <= n <= 127
HOSTLER_INLINE F32x16 PowerOfTwo(F32x16 n) { return {PowerOfTwo256(n.lo), PowerOfTwo256(n.hi)}; }
HOSTLER_INLINE __m256 LowerHalf(F32x16 a) { return a.lo; }
HOSTLER_INLINE __m256 UpperHalf(F32x16 a) { return a.hi; }

#else

constexpr char kIsa[] = "portable";
constexpr int kTileRows = 2;
constexpr int kTileTokens = 1;
constexpr int kVectorRows = 2;
constexpr int kScoreLanes = 1;
constexpr int kScoreTokens = 2;
constexpr int kScoreTiles = 1;
constexpr int kValueQueries = 2;
constexpr int kValueVectors = 1;

// Four lanes, in whatever the baseline of this architecture has for them.
using F32x4 = float __attribute__((vector_size(16)));
using U32x4 = uint32_t __attribute__((vector_size(16)));

struct F32x16 {
  F32x4 v[4];
};

// f(i) for each quarter.
template <typename F>
HOSTLER_INLINE F32x16 MakeQuarters(F quarter) {
  return {{quarter(0), quarter(1), quarter(2), quarter(3)}};
}
HOSTLER_INLINE float Lane(const F32x16& a, int i) { return a.v[i / 4][i % 4]; }
HOSTLER_INLINE uint16_t Load16Bits(const std::byte* p, int i) {
  uint16_t bits;
  std::memcpy(&bits, p + i * sizeof bits, sizeof bits);
  return bits;
}
HOSTLER_INLINE void Store16Bits(uint16_t bits, std::byte* p, int i) {
  std::memcpy(p + i * sizeof bits, &bits, sizeof bits);
}

HOSTLER_INLINE F32x16 Set(float x) {
  return MakeQuarters([&](int) { return F32x4{x, x, x, x}; });
}
HOSTLER_INLINE F32x16 Load(const float* p) {
  F32x16 result;
  std::memcpy(result.v, p, sizeof result.v);
  return result;
}
// Four values of type T from p, each converted to a lane of To.
template <typename T, typename To>
HOSTLER_INLINE To LoadQuarter(const std::byte* p, int quarter) {
  T values __attribute__((vector_size(4 * sizeof(T))));
  std::memcpy(&values, p + quarter * sizeof values, sizeof values);
  return __builtin_convertvector(values, To);
}
HOSTLER_INLINE F32x16 LoadF16(const std::byte* p) {
  return MakeQuarters([&](int q) {
    const U32x4 half = LoadQuarter<uint16_t, U32x4>(p, q);
    // The exponent is too small by 112; scaling mends that, subnormals included.
    const U32x4 magnitude = (half & 0x7fff) << 13;
    const U32x4 scaled = reinterpret_cast<U32x4>(reinterpret_cast<F32x4>(magnitude) * 0x1p112f);
    const U32x4 infinite = reinterpret_cast<U32x4>(magnitude >= 0x0f800000u) & 0x7f800000u;
    return reinterpret_cast<F32x4>(scaled | infinite | ((half & 0x8000) << 16));
  });
}
HOSTLER_INLINE F32x16 LoadBf16(const std::byte* p) {
  return MakeQuarters(
      [&](int q) { return reinterpret_cast<F32x4>(LoadQuarter<uint16_t, U32x4>(p, q) << 16); });
}
HOSTLER_INLINE F32x16 LoadI8(const std::byte* p) {
  return MakeQuarters([&](int q) { return LoadQuarter<int8_t, F32x4>(p, q); });
}
HOSTLER_INLINE float ScalarF16(const std::byte* p) { return F16ToF32(Load16Bits(p, 0)); }
HOSTLER_INLINE void Store(F32x16 a, float* p) { std::memcpy(p, a.v, sizeof a.v); }
HOSTLER_INLINE void StoreF16(F32x16 a, std::byte* p) {
  for (int i = 0; i < kLanes; ++i) Store16Bits(F32ToF16(Lane(a, i)), p, i);
}
HOSTLER_INLINE void StoreBf16(F32x16 a, std::byte* p) {
  for (int i = 0; i < kLanes; ++i) Store16Bits(F32ToBf16(Lane(a, i)), p, i);
}
HOSTLER_INLINE F32x16 Add(F32x16 a, F32x16 b) {
  return MakeQuarters([&](int q) { return a.v[q] + b.v[q]; });
}
HOSTLER_INLINE F32x16 Sub(F32x16 a, F32x16 b) {
  return MakeQuarters([&](int q) { return a.v[q] - b.v[q]; });
}
HOSTLER_INLINE F32x16 Mul(F32x16 a, F32x16 b) {
  return MakeQuarters([&](int q) { return a.v[q] * b.v[q]; });
}
HOSTLER_INLINE F32x16 Div(F32x16 a, F32x16 b) {
  return MakeQuarters([&](int q) { return a.v[q] / b.v[q]; });
}
// a * b + c
HOSTLER_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  return MakeQuarters([&](int q) { return a.v[q] * b.v[q] + c.v[q]; });
}
// b where either is NaN
HOSTLER_INLINE F32x16 Max(F32x16 a, F32x16 b) {
  return MakeQuarters([&](int q) { return a.v[q] > b.v[q] ? a.v[q] : b.v[q]; });
}
HOSTLER_INLINE F32x16 Min(F32x16 a, F32x16 b) {
  return MakeQuarters([&](int q) { return a.v[q] < b.v[q] ? a.v[q] : b.v[q]; });
}
// Lanes of v, zero where x < limit.
HOSTLER_INLINE F32x16 ZeroBelow(F32x16 x, F32x16 limit, F32x16 v) {
  return MakeQuarters([&](int q) { return x.v[q] < limit.v[q] ? F32x4{} : v.v[q]; });
}
// Lanes of v, those of w where x < limit.
HOSTLER_INLINE F32x16 Select(F32x16 x, F32x16 limit, F32x16 v, F32x16 w) {
  return MakeQuarters([&](int q) { return x.v[q] < limit.v[q] ? w.v[q] : v.v[q]; });
}
// 2^n. REQUIRES: n integral, -126 <= n <= 127
HOSTLER_INLINE F32x16 PowerOfTwo(F32x16 n) {
  return MakeQuarters([&](int q) {
    // n + 127 lands in the low mantissa bits of 2^23 + (n + 127).
    const F32x4 shifted = n.v[q] + F32x4{8388735, 8388735, 8388735, 8388735};
    return reinterpret_cast<F32x4>(reinterpret_cast<U32x4>(shifted) << 23);
  });
}
HOSTLER_INLINE float HorizontalSum(F32x16 a) {
  const F32x4 four = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
HOSTLER_INLINE float HorizontalMax(F32x16 a) {
  float result = Lane(a, 0);
  for (int i = 1; i < kLanes; ++i) result = Lane(a, i) > result ? Lane(a, i) : result;
  return result;
}

#endif

#if defined(HOSTLER_SIMD_AVX512) || defined(HOSTLER_SIMD_AVX2)

HOSTLER_INLINE float HorizontalSum(F32x16 a) {
  const __m256 eight = _mm256_add_ps(LowerHalf(a), UpperHalf(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
HOSTLER_INLINE float HorizontalMax(F32x16 a) {
  const __m256 eight = _mm256_max_ps(LowerHalf(a), UpperHalf(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#endif

// The first n lanes from p, the others zero.
HOSTLER_INLINE F32x16 LoadFirst(const float* p, int64_t n) {
  float lanes[kLanes] = {};
  std::memcpy(lanes, p, static_cast<size_t>(n) * sizeof(float));
  return Load(lanes);
}
HOSTLER_INLINE void StoreFirst(F32x16 a, float* p, int64_t n) {
  float lanes[kLanes];
  Store(a, lanes);
  std::memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
}

// e^x to within 2 ulp; 0 below -87.3 and no more than e^88.37 above.
HOSTLER_INLINE F32x16 Exp(F32x16 x) {
  const F32x16 lowest = Set(-87.33654f);
  const F32x16 bounded = Min(Set(88.37f), Max(lowest, x));
  // x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer.
  const F32x16 round = Set(12582912.0f);
  const F32x16 n = Sub(Fma(bounded, Set(1.44269504f), round), round);
  // ln 2 as a head of few bits, so that n times it is exact, and a tail.
  const F32x16 r = Fma(n, Set(2.12194440e-4f), Fma(n, Set(-0.693359375f), bounded));
  // Taylor's series; the first term left out is below 6e-9.
  F32x16 p = Set(1.0f / 5040);
  p = Fma(p, r, Set(1.0f / 720));
  p = Fma(p, r, Set(1.0f / 120));
  p = Fma(p, r, Set(1.0f / 24));
  p = Fma(p, r, Set(1.0f / 6));
  p = Fma(p, r, Set(0.5f));
  p = Fma(p, r, Set(1.0f));
  p = Fma(p, r, Set(1.0f));
  return ZeroBelow(x, lowest, Mul(p, PowerOfTwo(n)));
}

// 2^x to within 2 ulp for x <= 0; 0 below -126. 2^0 is 1.
HOSTLER_INLINE F32x16 Exp2(F32x16 x) {
  const F32x16 lowest = Set(-126);
  const F32x16 bounded = Max(lowest, x);
  // x = n + r, |r| <= 1/2. Adding 1.5 * 2^23 rounds to an integer.
  const F32x16 round = Set(12582912.0f);
  const F32x16 n = Sub(Add(bounded, round), round);
  const F32x16 r = Sub(bounded, n);
  // Minimax for the relative error, which is below 1e-7; p(0) = 1.
  F32x16 p = Set(0.001326472731307149f);
  p = Fma(p, r, Set(0.009671512991189957f));
  p = Fma(p, r, Set(0.05550733581185341f));
  p = Fma(p, r, Set(0.24022242426872253f));
  p = Fma(p, r, Set(0.6931470036506653f));
  p = Fma(p, r, Set(1.0f));
  return ZeroBelow(x, lowest, Mul(p, PowerOfTwo(n)));
}

// To within 3 ulp.
HOSTLER_INLINE F32x16 Tanh(F32x16 x) {
  // Where 1 - 2 / (e^2x + 1) would cancel, Lambert's continued fraction for
  // tanh, cut off after its fifth term.
  const F32x16 z = Mul(x, x);
  const F32x16 numerator = Mul(x, Fma(Add(z, Set(105)), z, Set(945)));
  const F32x16 denominator = Fma(Fma(Set(15), z, Set(420)), z, Set(945));
  const F32x16 near = Div(numerator, denominator);
  const F32x16 far = Sub(Set(1), Div(Set(2), Add(Exp(Add(x, x)), Set(1))));
  const F32x16 magnitude = Max(x, Sub(Set(0), x));
  constexpr float kFar = 0.625f;
  constexpr float kBeforeFar = 0.62499994f;
  return Add(ZeroBelow(magnitude, Set(kFar), far), ZeroBelow(Set(kBeforeFar), magnitude, near));
}

HOSTLER_INLINE F32x16 Capped(F32x16 x, F32x16 cap) { return Mul(cap, Tanh(Div(x, cap))); }

}  // namespace
}  // namespace hostler
