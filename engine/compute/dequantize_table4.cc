#include <limits>

#include "engine/compute/dequantize.h"

namespace hostler {
namespace {

// IQ4's sixteen steps, part of the format.
constexpr float kIQ4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

// E2M1: sign, two bits of exponent, one of mantissa. Minus zero reads as zero, as
// in GGUF's reference.
constexpr float kE2M1Values[16] = {0.0f, 0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                   0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// 16 bytes to 32 values: low nibbles, then high ones.
void LookUp(const float* table, float scale, const uint8_t* q, float* y) {
  for (int i = 0; i < 16; ++i) {
    y[i] = scale * table[q[i] & 15];
    y[i + 16] = scale * table[q[i] >> 4];
  }
}

}  // namespace

void DequantizeIQ4_NL(const std::byte* in, int64_t n, float* out) {
  ForBlocks<32, 18>(in, n, out, [](const uint8_t* block, float* y) {
    LookUp(kIQ4Values, ScaleAt(block), block + 2, y);
  });
}

// An f16, two bytes with the upper two bits of eight scales, four bytes with
// their lower four, 128 bytes of nibbles.
void DequantizeIQ4_XS(const std::byte* in, int64_t n, float* out) {
  ForBlocks<256, 136>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block);
    for (int part = 0; part < 8; ++part) {
      const int low = block[4 + part / 2] >> part % 2 * 4 & 15;
      const int high = block[2 + part / 4] >> part % 4 * 2 & 3;
      const float part_scale = scale * static_cast<float>((low | high << 4) - 32);
      LookUp(kIQ4Values, part_scale, block + 8 + part * 16, y + part * 32);
    }
  });
}

void DequantizeMxfp4(const std::byte* in, int64_t n, float* out) {
  ForBlocks<32, 17>(in, n, out, [](const uint8_t* block, float* y) {
    LookUp(kE2M1Values, E8M0ToF32(block[0]), block + 1, y);
  });
}

}  // namespace hostler
