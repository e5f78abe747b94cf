// Bytes16: sixteen unsigned bytes, and how quantised ones become an F32x16. For
// the same files and with the same rules as simd.h, but for AVX2 and AVX-512 only.
#pragma once

#include "engine/compute/cpu/simd.h"

namespace hostler {
namespace {

struct Bytes16 {
  __m128i v;
};

HOSTLER_INLINE Bytes16 LoadBytes(const std::byte* p) {
  return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
}
// (a >> shift) & mask, for masks that leave no bit of the neighbours.
HOSTLER_INLINE Bytes16 Bits(Bytes16 a, int shift, uint8_t mask) {
  return {_mm_and_si128(_mm_srli_epi16(a.v, shift), _mm_set1_epi8(static_cast<char>(mask)))};
}
// a | b << shift. REQUIRES: b << shift fits its byte
HOSTLER_INLINE Bytes16 OrShifted(Bytes16 a, Bytes16 b, int shift) {
  return {_mm_or_si128(a.v, _mm_slli_epi16(b.v, shift))};
}

// `value` in lane i where bit i is set, 0 elsewhere.
HOSTLER_INLINE Bytes16 SpreadBits(uint16_t bits, uint8_t value) {
  const __m128i halves = _mm_set1_epi16(static_cast<short>(bits));
  const __m128i byte_of_lane = _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m128i bit_of_lane = _mm_set1_epi64x(static_cast<long long>(0x8040201008040201u));
  const __m128i bit = _mm_and_si128(_mm_shuffle_epi8(halves, byte_of_lane), bit_of_lane);
  return {_mm_and_si128(_mm_cmpeq_epi8(bit, bit_of_lane), _mm_set1_epi8(static_cast<char>(value)))};
}

// A LinearTable holds scale * i - min for i < 16, a StepTable scale * steps[i]
// for int8 steps. Pick takes a value for each byte. REQUIRES: bytes < 16
#if defined(HOSTLER_SIMD_AVX512)

HOSTLER_INLINE F32x16 ToFloats(Bytes16 a) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(a.v))};
}

struct LinearTable {
  HOSTLER_INLINE LinearTable(float scale, float min) {
    const F32x16 indices = {_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
    values = Sub(Mul(Set(scale), indices), Set(min));
  }
  F32x16 values;
};

struct StepTable {
  HOSTLER_INLINE StepTable(float scale, const int8_t* steps)
      : values(Mul(Set(scale), LoadI8(reinterpret_cast<const std::byte*>(steps)))) {}
  F32x16 values;
};

template <typename Table>
HOSTLER_INLINE F32x16 Pick(const Table& table, Bytes16 indices) {
  return {_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(indices.v), table.values.v)};
}

#else

HOSTLER_INLINE F32x16 ToFloats(Bytes16 a) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(a.v)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(a.v, 8)))};
}
HOSTLER_INLINE F32x16 LookUpSteps(const int8_t* steps, Bytes16 indices) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(steps));
  const __m128i bytes = _mm_shuffle_epi8(table, indices.v);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}

struct LinearTable {
  HOSTLER_INLINE LinearTable(float scale, float min) : scale(Set(scale)), min(Set(min)) {}
  F32x16 scale, min;
};

struct StepTable {
  HOSTLER_INLINE StepTable(float scale, const int8_t* steps) : scale(Set(scale)), steps(steps) {}
  F32x16 scale;
  const int8_t* steps;
};

HOSTLER_INLINE F32x16 Pick(const LinearTable& table, Bytes16 indices) {
  return Sub(Mul(table.scale, ToFloats(indices)), table.min);
}
HOSTLER_INLINE F32x16 Pick(const StepTable& table, Bytes16 indices) {
  return Mul(table.scale, LookUpSteps(table.steps, indices));
}

#endif

}  // namespace
}  // namespace hostler
