// Products in integers: the arithmetic that the device's kernels and their host twin
// share, and stored weights as integers.
//
// Inputs are cut into groups of 128 columns x = scale * q, q of 16 bits in two signed
// bytes: q = 256 high + low. Of every block of 32 columns (16 for types with a scale for
// every 16) Σ w q is summed exactly, in any order; then for a group
//
//   part = fma(float(Σ w q), weight scale, part)  for its blocks in order
//   part = fma(-min, float(Σ q), part)            after each, for types with minima
//   sum = fma(part, input scale, sum)             for groups in order
//
// so a result has the same bits whatever kernel computes it, and beside whatever. That is
// the arithmetic of cpu/integer.h's kernels for q8_0, iq4_nl and iq4_xs, bit for bit; for
// the other types those have inputs of fewer bits.
#pragma once

#include <bit>
#include <cstdint>

#include "engine/base/dtype.h"

#if defined(__CUDACC__)
#define HOSTLER_HOST_DEVICE __host__ __device__
#else
#define HOSTLER_HOST_DEVICE
#endif

namespace hostler {

inline constexpr int kIntegerBlock = 32;
inline constexpr int kIntegerGroup = 128;
inline constexpr int kGroupBlocks = kIntegerGroup / kIntegerBlock;
// The largest magnitude of q.
inline constexpr int kMostQuant = 127 * 256 + 127;

// How many rows of input the device's two kernels take at a time: where there are few, and
// on tensor cores. The bits are the same.
inline constexpr int kFewTokens = 4;
inline constexpr int kTensorTokens = 64;

// Weight i of a block is scale[h] * q[i] - least[h], h = i / 16 for types with kHalves and
// 0 for others. The q are signed bytes, in order.
struct IntegerBlock {
  uint32_t q[8];
  float scale[2], least[2];
};

// Each byte minus an offset. REQUIRES: bytes < 128, offset <= 128
HOSTLER_HOST_DEVICE constexpr uint32_t MinusEach(uint32_t bytes, uint32_t offset) {
  return ((bytes | 0x80808080u) - offset * 0x01010101u) ^ 0x80808080u;
}
// Bit i of four to bit `to` of byte i.
HOSTLER_HOST_DEVICE constexpr uint32_t SpreadBits(uint32_t bits, int to) {
  return ((bits & 15) * 0x00204081u & 0x01010101u) << to;
}
// Digit + 1 of four bytes of ternary digits, see dequantize_ternary.cc.
HOSTLER_HOST_DEVICE constexpr uint32_t TernaryDigits(uint32_t bytes, uint32_t power) {
  const uint32_t even = (bytes & 0x00ff00ffu) * power & 0x00ff00ffu;
  const uint32_t odd = (bytes >> 8 & 0x00ff00ffu) * power & 0x00ff00ffu;
  return (even * 3 >> 8 & 0x00030003u) | (odd * 3 & 0x03000300u);
}

// Integers<type>: how blocks of a type are read. Decode<Bytes>(row, block, out) reads block
// `block` (of 32) of a row through Bytes, which has
//   Words<n>(p, out)            n words of four bytes, at any address
//   Half(p)                     an f16 as f32
//   LookUp(type, word, lo, hi)  what a table has for the word's low nibbles and high ones
template <DType type>
struct Integers;

struct OneScale {
  static constexpr bool kHalves = false, kMins = false;
};

struct Block32 : OneScale {
  static constexpr int kElements = 32;
};

// 16 bytes of nibbles, low ones first.
template <typename Bytes>
HOSTLER_HOST_DEVICE inline void ReadNibbles(const uint8_t* p, uint32_t* q) {
  uint32_t words[4];
  Bytes::template Words<4>(p, words);
  for (int i = 0; i < 4; ++i) {
    q[i] = words[i] & 0x0f0f0f0fu;
    q[i + 4] = words[i] >> 4 & 0x0f0f0f0fu;
  }
}
template <typename Bytes, DType type>
HOSTLER_HOST_DEVICE inline void LookUpNibbles(const uint8_t* p, uint32_t* q) {
  uint32_t words[4];
  Bytes::template Words<4>(p, words);
  for (int i = 0; i < 4; ++i) Bytes::template LookUp<type>(words[i], &q[i], &q[i + 4]);
}

template <>
struct Integers<DType::kQ8_0> : Block32 {
  static constexpr int kBytes = 34;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block * kBytes;
    out->scale[0] = Bytes::Half(p);
    Bytes::template Words<8>(p + 2, out->q);
  }
};

template <>
struct Integers<DType::kQ4_0> : Block32 {
  static constexpr int kBytes = 18;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block * kBytes;
    out->scale[0] = Bytes::Half(p);
    ReadNibbles<Bytes>(p + 2, out->q);
    for (int i = 0; i < 8; ++i) out->q[i] = MinusEach(out->q[i], 8);
  }
};

template <>
struct Integers<DType::kQ4_1> : Block32 {
  static constexpr bool kMins = true;
  static constexpr int kBytes = 20;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block * kBytes;
    out->scale[0] = Bytes::Half(p);
    out->least[0] = -Bytes::Half(p + 2);
    ReadNibbles<Bytes>(p + 4, out->q);
  }
};

// Nibbles, and fifth bits in four bytes before them.
template <typename Bytes>
HOSTLER_HOST_DEVICE inline void ReadFiveBits(const uint8_t* p, uint32_t* q) {
  uint32_t fifth;
  Bytes::template Words<1>(p, &fifth);
  ReadNibbles<Bytes>(p + 4, q);
  for (int i = 0; i < 8; ++i) q[i] |= SpreadBits(fifth >> 4 * i, 4);
}

template <>
struct Integers<DType::kQ5_0> : Block32 {
  static constexpr int kBytes = 22;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block * kBytes;
    out->scale[0] = Bytes::Half(p);
    ReadFiveBits<Bytes>(p + 2, out->q);
    for (int i = 0; i < 8; ++i) out->q[i] = MinusEach(out->q[i], 16);
  }
};

template <>
struct Integers<DType::kQ5_1> : Block32 {
  static constexpr bool kMins = true;
  static constexpr int kBytes = 24;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block * kBytes;
    out->scale[0] = Bytes::Half(p);
    out->least[0] = -Bytes::Half(p + 2);
    ReadFiveBits<Bytes>(p + 4, out->q);
  }
};

template <>
struct Integers<DType::kIQ4_NL> : Block32 {
  static constexpr int kBytes = 18;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block * kBytes;
    out->scale[0] = Bytes::Half(p);
    LookUpNibbles<Bytes, DType::kIQ4_NL>(p + 2, out->q);
  }
};

template <>
struct Integers<DType::kMXFP4> : Block32 {
  static constexpr int kBytes = 17;
  // Half of 2^(exponent - 127), since integers are E2M1 in halves.
  HOSTLER_HOST_DEVICE static float HalfScale(uint32_t exponent) {
    const uint32_t bits = exponent < 2 ? 0x200000u << exponent : (exponent - 1) << 23;
    return std::bit_cast<float>(exponent == 255 ? 0x7fc00000u : bits);
  }
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block * kBytes;
    out->scale[0] = HalfScale(p[0]);
    LookUpNibbles<Bytes, DType::kMXFP4>(p + 1, out->q);
  }
};

// Blocks of 256: eight of 32, of which `part` is one.
struct Block256 : OneScale {
  static constexpr int kElements = 256;
};

// 32 values of two bits, `shift` up in 32 bytes.
template <typename Bytes>
HOSTLER_HOST_DEVICE inline void ReadPairs(const uint8_t* p, int shift, uint32_t* q) {
  Bytes::template Words<8>(p, q);
  for (int i = 0; i < 8; ++i) q[i] = q[i] >> shift & 0x03030303u;
}
template <typename Bytes>
HOSTLER_HOST_DEVICE inline void ReadFours(const uint8_t* p, int shift, uint32_t* q) {
  Bytes::template Words<8>(p, q);
  for (int i = 0; i < 8; ++i) q[i] = q[i] >> shift & 0x0f0f0f0fu;
}

template <>
struct Integers<DType::kQ2_K> : Block256 {
  static constexpr bool kHalves = true, kMins = true;
  static constexpr int kBytes = 84;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block / 8 * kBytes;
    const int part = static_cast<int>(block % 8);
    const float scale = Bytes::Half(p + 80), least = Bytes::Half(p + 82);
    for (int h = 0; h < 2; ++h) {
      const int packed = p[2 * part + h];
      out->scale[h] = scale * static_cast<float>(packed & 15);
      out->least[h] = least * static_cast<float>(packed >> 4);
    }
    ReadPairs<Bytes>(p + 16 + part / 4 * 32, part % 4 * 2, out->q);
  }
};

template <>
struct Integers<DType::kQ3_K> : Block256 {
  static constexpr bool kHalves = true;
  static constexpr int kBytes = 110;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block / 8 * kBytes;
    const int part = static_cast<int>(block % 8);
    const float scale = Bytes::Half(p + 108);
    const uint8_t* packed = p + 96;
    for (int h = 0; h < 2; ++h) {
      const int i = 2 * part + h;
      const int low = packed[i % 8] >> i / 8 * 4 & 15;
      const int high = packed[8 + i % 4] >> 2 * (i / 4) & 3;
      out->scale[h] = scale * static_cast<float>((low | high << 4) - 32);
    }
    uint32_t third[8];
    Bytes::template Words<8>(p, third);
    ReadPairs<Bytes>(p + 32 + part / 4 * 32, part % 4 * 2, out->q);
    for (int i = 0; i < 8; ++i) {
      out->q[i] = MinusEach(out->q[i] | (third[i] >> part & 0x01010101u) << 2, 4);
    }
  }
};

// Scale and minimum of six bits each; see dequantize_k.cc.
template <typename Bytes>
HOSTLER_HOST_DEVICE inline void ReadSixBits(const uint8_t* p, int part, IntegerBlock* out) {
  const uint8_t* packed = p + 4;
  int scale = packed[part] & 63, least = packed[part + 4] & 63;
  if (part >= 4) {
    scale = (packed[part + 4] & 15) | packed[part - 4] >> 6 << 4;
    least = packed[part + 4] >> 4 | packed[part] >> 6 << 4;
  }
  out->scale[0] = Bytes::Half(p) * static_cast<float>(scale);
  out->least[0] = Bytes::Half(p + 2) * static_cast<float>(least);
}

template <>
struct Integers<DType::kQ4_K> : Block256 {
  static constexpr bool kMins = true;
  static constexpr int kBytes = 144;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block / 8 * kBytes;
    const int part = static_cast<int>(block % 8);
    ReadSixBits<Bytes>(p, part, out);
    ReadFours<Bytes>(p + 16 + part / 2 * 32, part % 2 * 4, out->q);
  }
};

template <>
struct Integers<DType::kQ5_K> : Block256 {
  static constexpr bool kMins = true;
  static constexpr int kBytes = 176;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block / 8 * kBytes;
    const int part = static_cast<int>(block % 8);
    ReadSixBits<Bytes>(p, part, out);
    uint32_t fifth[8];
    Bytes::template Words<8>(p + 16, fifth);
    ReadFours<Bytes>(p + 48 + part / 2 * 32, part % 2 * 4, out->q);
    for (int i = 0; i < 8; ++i) out->q[i] |= (fifth[i] >> part & 0x01010101u) << 4;
  }
};

template <>
struct Integers<DType::kQ6_K> : Block256 {
  static constexpr bool kHalves = true;
  static constexpr int kBytes = 210;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block / 8 * kBytes;
    const int part = static_cast<int>(block % 8), run = part % 4;
    const float scale = Bytes::Half(p + 208);
    for (int h = 0; h < 2; ++h) {
      out->scale[h] = scale * static_cast<float>(static_cast<int8_t>(p[192 + 2 * part + h]));
    }
    uint32_t high[8];
    Bytes::template Words<8>(p + 128 + part / 4 * 32, high);
    ReadFours<Bytes>(p + part / 4 * 64 + run % 2 * 32, run / 2 * 4, out->q);
    for (int i = 0; i < 8; ++i) {
      out->q[i] = MinusEach(out->q[i] | (high[i] >> 2 * run & 0x03030303u) << 4, 32);
    }
  }
};

template <>
struct Integers<DType::kIQ4_XS> : Block256 {
  static constexpr int kBytes = 136;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block / 8 * kBytes;
    const int part = static_cast<int>(block % 8);
    const int low = p[4 + part / 2] >> part % 2 * 4 & 15;
    const int high = p[2 + part / 4] >> part % 4 * 2 & 3;
    out->scale[0] = Bytes::Half(p) * static_cast<float>((low | high << 4) - 32);
    LookUpNibbles<Bytes, DType::kIQ4_NL>(p + 8 + part * 16, out->q);
  }
};

template <>
struct Integers<DType::kTQ1_0> : Block256 {
  static constexpr int kBytes = 54;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block / 8 * kBytes;
    const int part = static_cast<int>(block % 8);
    out->scale[0] = Bytes::Half(p + 52);
    // Parts 0 to 4 are a digit of 32 bytes; then come five digits of 16 bytes, two in
    // a part, and four of four bytes.
    if (part < 5) {
      Bytes::template Words<8>(p, out->q);
    } else {
      Bytes::template Words<4>(p + 32, out->q);
      for (int i = 4; i < 8; ++i) out->q[i] = out->q[i - 4];
      if (part == 7) Bytes::template Words<1>(p + 48, out->q + 4);
      if (part == 7) out->q[5] = out->q[6] = out->q[7] = out->q[4];
    }
    for (int i = 0; i < 8; ++i) {
      int digit = part < 5 ? part : 2 * (part - 5) + i / 4;
      if (part == 7 && i >= 4) digit = i - 4;
      uint32_t power = 1;
      for (int d = 0; d < digit; ++d) power *= 3;
      out->q[i] = MinusEach(TernaryDigits(out->q[i], power), 1);
    }
  }
};

template <>
struct Integers<DType::kTQ2_0> : Block256 {
  static constexpr int kBytes = 66;
  template <typename Bytes>
  HOSTLER_HOST_DEVICE static void Decode(const uint8_t* row, int64_t block, IntegerBlock* out) {
    const uint8_t* p = row + block / 8 * kBytes;
    const int part = static_cast<int>(block % 8);
    out->scale[0] = Bytes::Half(p + 64);
    ReadPairs<Bytes>(p + part / 4 * 32, part % 4 * 2, out->q);
    for (int i = 0; i < 8; ++i) out->q[i] = MinusEach(out->q[i], 1);
  }
};

// X(name) for every type that has integers.
// clang-format off
#define HOSTLER_INTEGER_TYPES(X)                                                    \
  X(kQ8_0) X(kQ4_0) X(kQ4_1) X(kQ5_0) X(kQ5_1) X(kQ2_K) X(kQ3_K) X(kQ4_K) X(kQ5_K) \
      X(kQ6_K) X(kIQ4_NL) X(kIQ4_XS) X(kMXFP4) X(kTQ1_0) X(kTQ2_0)
// clang-format on

constexpr bool HasIntegers(DType type) { return type >= DType::kQ8_0 && type <= DType::kTQ2_0; }

// The tables that nibbles look up, of 16 signed bytes: IQ4's steps; E2M1 in halves, of
// which minus zero is zero.
inline constexpr int8_t kIQ4Table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};
inline constexpr int8_t kMxfp4Table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
template <DType type>
constexpr int8_t TableEntry(int i) {
  return type == DType::kMXFP4 ? kMxfp4Table[i] : kIQ4Table[i];
}

// For a type known when run: f(Integers<type>()). REQUIRES: HasIntegers(type)
template <typename F>
void ForIntegers(DType type, F f) {
  switch (type) {
#define HOSTLER_CASE(name) \
  case DType::name:        \
    return f(Integers<DType::name>());
    HOSTLER_INTEGER_TYPES(HOSTLER_CASE)
#undef HOSTLER_CASE
    default:
      return;
  }
}

}  // namespace hostler
