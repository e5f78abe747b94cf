#include "engine/compute/dequantize.h"

namespace hostler {
namespace {

constexpr int kBlock = 256;

// Scale and minimum of part j (of 8, each of 32 values) of a Q4_K or Q5_K block,
// from 12 bytes that hold eight pairs of 6 bits. The first four of each lie in
// the low bits of bytes 0-3 and 4-7; of the others the low four bits lie in the
// nibbles of bytes 8-11 and the high two above those of the first four.
struct ScaleAndMin {
  int scale, min;
};
ScaleAndMin PartOf(const uint8_t* packed, int j) {
  if (j < 4) return {packed[j] & 63, packed[j + 4] & 63};
  return {(packed[j + 4] & 15) | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4};
}

// Scale i (of 16, each of 16 values) of a Q3_K block, from 12 bytes: the low
// four bits in the nibbles of bytes 0-7, the high two in pairs in bytes 8-11.
int Q3Scale(const uint8_t* packed, int i) {
  const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
  const int high = packed[8 + i % 4] >> 2 * (i / 4) & 3;
  return (low | high << 4) - 32;
}

}  // namespace

// 16 bytes of nibbles (scale, minimum), 64 bytes of 2-bit values, two f16.
void DequantizeQ2_K(const std::byte* in, int64_t n, float* out) {
  ForBlocks<kBlock, 84>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block + 80);
    const float min = ScaleAt(block + 82);
    for (int part = 0; part < 16; ++part) {
      // 128 values share 32 bytes, each byte holding four values 32 apart.
      const uint8_t* q = block + 16 + part / 8 * 32 + part % 2 * 16;
      const int shift = part % 8 / 2 * 2;
      const float part_scale = scale * static_cast<float>(block[part] & 15);
      const float part_min = min * static_cast<float>(block[part] >> 4);
      for (int i = 0; i < 16; ++i) {
        y[part * 16 + i] = part_scale * static_cast<float>(q[i] >> shift & 3) - part_min;
      }
    }
  });
}

// 32 bytes of third bits, 64 bytes of the lower two, 12 bytes of scales, an f16.
void DequantizeQ3_K(const std::byte* in, int64_t n, float* out) {
  ForBlocks<kBlock, 110>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block + 108);
    for (int part = 0; part < 16; ++part) {
      const uint8_t* q = block + 32 + part / 8 * 32 + part % 2 * 16;
      const uint8_t* high = block + part % 2 * 16;
      const int shift = part % 8 / 2 * 2;
      const int high_shift = part / 2;
      const float part_scale = scale * static_cast<float>(Q3Scale(block + 96, part));
      for (int i = 0; i < 16; ++i) {
        const int value = (q[i] >> shift & 3) | (high[i] >> high_shift & 1) << 2;
        y[part * 16 + i] = part_scale * static_cast<float>(value - 4);
      }
    }
  });
}

// Two f16, 12 bytes of scales and minima, 128 bytes of nibbles.
void DequantizeQ4_K(const std::byte* in, int64_t n, float* out) {
  ForBlocks<kBlock, 144>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block);
    const float min = ScaleAt(block + 2);
    for (int part = 0; part < 8; ++part) {
      const ScaleAndMin packed = PartOf(block + 4, part);
      const uint8_t* q = block + 16 + part / 2 * 32;
      const int shift = part % 2 * 4;
      const float part_scale = scale * static_cast<float>(packed.scale);
      const float part_min = min * static_cast<float>(packed.min);
      for (int i = 0; i < 32; ++i) {
        y[part * 32 + i] = part_scale * static_cast<float>(q[i] >> shift & 15) - part_min;
      }
    }
  });
}

// As Q4_K, with 32 bytes of fifth bits before the nibbles.
void DequantizeQ5_K(const std::byte* in, int64_t n, float* out) {
  ForBlocks<kBlock, 176>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block);
    const float min = ScaleAt(block + 2);
    const uint8_t* high = block + 16;
    for (int part = 0; part < 8; ++part) {
      const ScaleAndMin packed = PartOf(block + 4, part);
      const uint8_t* q = block + 48 + part / 2 * 32;
      const int shift = part % 2 * 4;
      const float part_scale = scale * static_cast<float>(packed.scale);
      const float part_min = min * static_cast<float>(packed.min);
      for (int i = 0; i < 32; ++i) {
        const int value = (q[i] >> shift & 15) | (high[i] >> part & 1) << 4;
        y[part * 32 + i] = part_scale * static_cast<float>(value) - part_min;
      }
    }
  });
}

// 128 bytes of nibbles, 64 bytes of the upper two bits, 16 int8 scales, an f16.
void DequantizeQ6_K(const std::byte* in, int64_t n, float* out) {
  ForBlocks<kBlock, 210>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block + 208);
    for (int part = 0; part < 16; ++part) {
      // Of 128 values in four runs of 32, runs 0 and 2 share bytes, 1 and 3 too.
      const int run = part % 8 / 2;
      const int first = part % 2 * 16;
      const uint8_t* low = block + part / 8 * 64 + run % 2 * 32 + first;
      const uint8_t* high = block + 128 + part / 8 * 32 + first;
      const int low_shift = run / 2 * 4;
      const int high_shift = run * 2;
      const float part_scale = scale * static_cast<float>(static_cast<int8_t>(block[192 + part]));
      for (int i = 0; i < 16; ++i) {
        const int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
        y[part * 16 + i] = part_scale * static_cast<float>(value - 32);
      }
    }
  });
}

}  // namespace hostler
