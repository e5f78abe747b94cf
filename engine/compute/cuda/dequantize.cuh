// Stored weights to f32 on the device, eight consecutive values at a time: the values
// that dequantize.h gives, bit for bit. Pointers need no alignment.
#pragma once

#include "engine/base/dtype.h"
#include "engine/compute/cuda/device.cuh"

namespace hostler {

inline constexpr int kGroupValues = 8;

// Format<type>::Decode writes values [8 group, 8 group + 8) of a row to out. Of plain
// types only `count` may be there; the others become 0.
template <DType type>
struct Format;

template <>
struct Format<DType::kF32> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int count, float* out) {
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = i < count ? LoadF32(row + (8 * group + i) * 4) : 0;
  }
};

template <>
struct Format<DType::kF16> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int count, float* out) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      out[i] = i < count ? HalfToFloat(LoadU16(row + (8 * group + i) * 2)) : 0;
    }
  }
};

template <>
struct Format<DType::kBF16> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int count, float* out) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      out[i] = i < count ? Bf16BitsToFloat(LoadU16(row + (8 * group + i) * 2)) : 0;
    }
  }
};

template <>
struct Format<DType::kF8E4M3> {
  static __device__ float Value(int bits) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float value = exponent == 0 ? static_cast<float>(mantissa) * 0.001953125f
                                : __uint_as_float(static_cast<unsigned>(exponent + 120) << 23 |
                                                  static_cast<unsigned>(mantissa) << 20);
    if ((bits & 0x7f) == 0x7f) value = __uint_as_float(0x7fc00000u);
    return bits & 0x80 ? -value : value;
  }
  static __device__ void Decode(const uint8_t* row, int64_t group, int count, float* out) {
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = i < count ? Value(row[8 * group + i]) : 0;
  }
};

__device__ inline float ScaleOf(const uint8_t* p) { return HalfToFloat(LoadU16(p)); }

// The four bits of a block of 32 that groups 0 and 1 have below and 2 and 3 above.
__device__ inline int Nibble(const uint8_t* q, int group, int i) {
  return q[group % 2 * 8 + i] >> (group / 2 * 4) & 15;
}

template <>
struct Format<DType::kQ8_0> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 4 * 34;
    const float scale = ScaleOf(block);
    const uint8_t* q = block + 2 + group % 4 * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = scale * static_cast<float>(static_cast<int8_t>(q[i]));
  }
};

template <>
struct Format<DType::kQ4_0> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 4 * 18;
    const float scale = ScaleOf(block);
    const int part = static_cast<int>(group % 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      out[i] = scale * static_cast<float>(Nibble(block + 2, part, i) - 8);
    }
  }
};

template <>
struct Format<DType::kQ4_1> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 4 * 20;
    const float scale = ScaleOf(block), least = ScaleOf(block + 2);
    const int part = static_cast<int>(group % 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      out[i] = scale * static_cast<float>(Nibble(block + 4, part, i)) + least;
    }
  }
};

template <>
struct Format<DType::kQ5_0> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 4 * 22;
    const float scale = ScaleOf(block);
    const int part = static_cast<int>(group % 4);
    const int fifth = block[2 + part];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int q = Nibble(block + 6, part, i) | (fifth >> i & 1) << 4;
      out[i] = scale * static_cast<float>(q - 16);
    }
  }
};

template <>
struct Format<DType::kQ5_1> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 4 * 24;
    const float scale = ScaleOf(block), least = ScaleOf(block + 2);
    const int part = static_cast<int>(group % 4);
    const int fifth = block[4 + part];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int q = Nibble(block + 8, part, i) | (fifth >> i & 1) << 4;
      out[i] = scale * static_cast<float>(q) + least;
    }
  }
};

template <>
struct Format<DType::kQ2_K> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 32 * 84;
    const int part = static_cast<int>(group % 32) / 2;  // of 16 values
    const uint8_t* q = block + 16 + part / 8 * 32 + part % 2 * 16 + group % 2 * 8;
    const int shift = part % 8 / 2 * 2;
    const float scale = ScaleOf(block + 80) * static_cast<float>(block[part] & 15);
    const float least = ScaleOf(block + 82) * static_cast<float>(block[part] >> 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = scale * static_cast<float>(q[i] >> shift & 3) - least;
  }
};

template <>
struct Format<DType::kQ3_K> {
  static __device__ int Scale(const uint8_t* packed, int i) {
    const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
    const int high = packed[8 + i % 4] >> 2 * (i / 4) & 3;
    return (low | high << 4) - 32;
  }
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 32 * 110;
    const int part = static_cast<int>(group % 32) / 2;
    const int first = part % 2 * 16 + static_cast<int>(group % 2) * 8;
    const uint8_t* q = block + 32 + part / 8 * 32 + first;
    const uint8_t* high = block + first;
    const int shift = part % 8 / 2 * 2, high_shift = part / 2;
    const float scale = ScaleOf(block + 108) * static_cast<float>(Scale(block + 96, part));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int value = (q[i] >> shift & 3) | (high[i] >> high_shift & 1) << 2;
      out[i] = scale * static_cast<float>(value - 4);
    }
  }
};

// Scale and minimum of part j (of 8) of a Q4_K or Q5_K block; see dequantize_k.cc.
struct PartScale {
  float scale, least;
};
__device__ inline PartScale PartScaleOf(const uint8_t* block, int j) {
  const uint8_t* packed = block + 4;
  int scale = packed[j % 8] & 63, least = packed[(j + 4) % 12] & 63;
  if (j >= 4) {
    scale = (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
    least = packed[j + 4] >> 4 | packed[j] >> 6 << 4;
  }
  return {ScaleOf(block) * static_cast<float>(scale),
          ScaleOf(block + 2) * static_cast<float>(least)};
}

template <>
struct Format<DType::kQ4_K> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 32 * 144;
    const int part = static_cast<int>(group % 32) / 4;  // of 32 values
    const PartScale part_scale = PartScaleOf(block, part);
    const uint8_t* q = block + 16 + part / 2 * 32 + group % 4 * 8;
    const int shift = part % 2 * 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      out[i] = part_scale.scale * static_cast<float>(q[i] >> shift & 15) - part_scale.least;
    }
  }
};

template <>
struct Format<DType::kQ5_K> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 32 * 176;
    const int part = static_cast<int>(group % 32) / 4;
    const PartScale part_scale = PartScaleOf(block, part);
    const uint8_t* high = block + 16 + group % 4 * 8;
    const uint8_t* q = block + 48 + part / 2 * 32 + group % 4 * 8;
    const int shift = part % 2 * 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int value = (q[i] >> shift & 15) | (high[i] >> part & 1) << 4;
      out[i] = part_scale.scale * static_cast<float>(value) - part_scale.least;
    }
  }
};

template <>
struct Format<DType::kQ6_K> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 32 * 210;
    const int part = static_cast<int>(group % 32) / 2;
    const int run = part % 8 / 2;
    const int first = part % 2 * 16 + static_cast<int>(group % 2) * 8;
    const uint8_t* low = block + part / 8 * 64 + run % 2 * 32 + first;
    const uint8_t* high = block + 128 + part / 8 * 32 + first;
    const float scale =
        ScaleOf(block + 208) * static_cast<float>(static_cast<int8_t>(block[192 + part]));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int value = (low[i] >> (run / 2 * 4) & 15) | (high[i] >> (run * 2) & 3) << 4;
      out[i] = scale * static_cast<float>(value - 32);
    }
  }
};

// IQ4's sixteen steps.
__device__ inline float IQ4Value(int index) {
  static __constant__ const float kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                 1,    13,   25,  38,  53,  69,  89,  113};
  return kValues[index];
}

template <>
struct Format<DType::kIQ4_NL> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 4 * 18;
    const float scale = ScaleOf(block);
    const int part = static_cast<int>(group % 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = scale * IQ4Value(Nibble(block + 2, part, i));
  }
};

template <>
struct Format<DType::kIQ4_XS> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 32 * 136;
    const int part = static_cast<int>(group % 32) / 4;
    const int low = block[4 + part / 2] >> part % 2 * 4 & 15;
    const int high = block[2 + part / 4] >> part % 4 * 2 & 3;
    const float scale = ScaleOf(block) * static_cast<float>((low | high << 4) - 32);
    const uint8_t* q = block + 8 + part * 16;
    const int nibbles = static_cast<int>(group % 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = scale * IQ4Value(Nibble(q, nibbles, i));
  }
};

template <>
struct Format<DType::kMXFP4> {
  // E2M1; minus zero reads as zero.
  static __device__ float Value(int bits) {
    static __constant__ const float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    const float value = kValues[bits & 7];
    return (bits & 8) != 0 && value != 0 ? -value : value;
  }
  static __device__ float Scale(int bits) {
    if (bits == 255) return __uint_as_float(0x7fc00000u);
    return __uint_as_float(bits == 0 ? 0x00400000u : static_cast<unsigned>(bits) << 23);
  }
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 4 * 17;
    const float scale = Scale(block[0]);
    const int part = static_cast<int>(group % 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = scale * Value(Nibble(block + 1, part, i));
  }
};

template <>
struct Format<DType::kTQ1_0> {
  // Ternary digit `digit` of a byte; see dequantize_ternary.cc.
  static __device__ float Digit(int byte, int digit) {
    int power = 1;
    for (int i = 0; i < digit; ++i) power *= 3;
    return static_cast<float>(((byte * power & 255) * 3 >> 8) - 1);
  }
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 32 * 54;
    const int first = static_cast<int>(group % 32) * 8;
    const float scale = ScaleOf(block + 52);
    for (int i = 0; i < 8; ++i) {
      const int at = first + i;
      const int byte = at < 160 ? at % 32 : at < 240 ? 32 + (at - 160) % 16 : 48 + (at - 240) % 4;
      const int digit = at < 160 ? at / 32 : at < 240 ? (at - 160) / 16 : (at - 240) / 4;
      out[i] = scale * Digit(block[byte], digit);
    }
  }
};

template <>
struct Format<DType::kTQ2_0> {
  static __device__ void Decode(const uint8_t* row, int64_t group, int, float* out) {
    const uint8_t* block = row + group / 32 * 66;
    const int run = static_cast<int>(group % 32) / 4;
    const uint8_t* q = block + run / 4 * 32 + group % 4 * 8;
    const float scale = ScaleOf(block + 64);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      out[i] = scale * static_cast<float>((q[i] >> (run % 4 * 2) & 3) - 1);
    }
  }
};

// X(name) for every weight type.
// clang-format off
#define HOSTLER_WEIGHT_TYPES(X)                                                             \
  X(kF32)                                                                                   \
  X(kF16)                                                                                   \
  X(kBF16) X(kQ8_0) X(kQ4_0) X(kQ4_1) X(kQ5_0) X(kQ5_1) X(kQ2_K) X(kQ3_K) X(kQ4_K) X(kQ5_K) \
      X(kQ6_K) X(kIQ4_NL) X(kIQ4_XS) X(kMXFP4) X(kTQ1_0) X(kTQ2_0) X(kF8E4M3)
// clang-format on

__device__ inline void DecodeAny(DType type, const uint8_t* row, int64_t group, int count,
                                 float* out) {
  switch (type) {
#define HOSTLER_CASE(name) \
  case DType::name:        \
    return Format<DType::name>::Decode(row, group, count, out);
    HOSTLER_WEIGHT_TYPES(HOSTLER_CASE)
#undef HOSTLER_CASE
    default:
      return;
  }
}

// One value of a vector that may have any type.
__device__ inline float ValueAt(DType type, const uint8_t* vector, int64_t i) {
  if (type == DType::kF32) return LoadF32(vector + 4 * i);
  if (type == DType::kBF16) return Bf16BitsToFloat(LoadU16(vector + 2 * i));
  if (type == DType::kF16) return HalfToFloat(LoadU16(vector + 2 * i));
  float group[kGroupValues];
  // A plain type's group may end early: what follows is not asked for.
  DecodeAny(type, vector, i / kGroupValues, static_cast<int>(i % kGroupValues) + 1, group);
  return group[i % kGroupValues];
}

}  // namespace hostler
