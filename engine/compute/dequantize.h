// From stored weights to f32: one function a type, in a file a family of types.
// Portable and deterministic: a value depends on its block alone, never on how
// the code was compiled. Pure functions; any thread may call them. Pointers need
// no alignment.
//
// The block types are GGUF's. A value is made of integers and the block's scales
// in the order the format defines, each step rounded to f32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "engine/compute/half.h"

namespace hostler {

// Plain types (dequantize_plain.cc).
void DequantizeF32(const std::byte* in, int64_t n, float* out);
void DequantizeF16(const std::byte* in, int64_t n, float* out);
void DequantizeBf16(const std::byte* in, int64_t n, float* out);
void DequantizeF8E4M3(const std::byte* in, int64_t n, float* out);

// Blocks of 32 with one scale (dequantize_block32.cc).
void DequantizeQ4_0(const std::byte* in, int64_t n, float* out);
void DequantizeQ4_1(const std::byte* in, int64_t n, float* out);
void DequantizeQ5_0(const std::byte* in, int64_t n, float* out);
void DequantizeQ5_1(const std::byte* in, int64_t n, float* out);
void DequantizeQ8_0(const std::byte* in, int64_t n, float* out);

// Blocks of 256 with scales of their parts (dequantize_k.cc).
void DequantizeQ2_K(const std::byte* in, int64_t n, float* out);
void DequantizeQ3_K(const std::byte* in, int64_t n, float* out);
void DequantizeQ4_K(const std::byte* in, int64_t n, float* out);
void DequantizeQ5_K(const std::byte* in, int64_t n, float* out);
void DequantizeQ6_K(const std::byte* in, int64_t n, float* out);

// Four bits that index a table of unequal steps (dequantize_table4.cc).
void DequantizeIQ4_NL(const std::byte* in, int64_t n, float* out);
void DequantizeIQ4_XS(const std::byte* in, int64_t n, float* out);
void DequantizeMxfp4(const std::byte* in, int64_t n, float* out);

// Ternary values (dequantize_ternary.cc).
void DequantizeTQ1_0(const std::byte* in, int64_t n, float* out);
void DequantizeTQ2_0(const std::byte* in, int64_t n, float* out);

// For the files of this family: f(block, values) for each block of a type.
template <int kElements, int kBytes, typename F>
void ForBlocks(const std::byte* in, int64_t n, float* out, F f) {
  const uint8_t* block = reinterpret_cast<const uint8_t*>(in);
  for (int64_t i = 0; i < n / kElements; ++i) f(block + i * kBytes, out + i * kElements);
}

inline float ScaleAt(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return F16ToF32(bits);
}

}  // namespace hostler
