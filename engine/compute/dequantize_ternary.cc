#include "engine/compute/dequantize.h"

namespace hostler {
namespace {

constexpr int kBlock = 256;

// Values of digit `digit` (0 the first) of some bytes. A byte is a fraction of
// 256 with five ternary digits: times 3^digit, modulo 256, leaves the fraction
// that begins with the digit, and three times that has it above the point.
void Digits(const uint8_t* bytes, int count, int digit, float scale, float* y) {
  constexpr uint8_t kPowers[5] = {1, 3, 9, 27, 81};
  for (int i = 0; i < count; ++i) {
    const uint8_t fraction = static_cast<uint8_t>(bytes[i] * kPowers[digit]);
    y[i] = scale * static_cast<float>((fraction * 3 >> 8) - 1);
  }
}

}  // namespace

// 48 bytes of five digits (32 and 16 side by side), 4 bytes of four, an f16.
void DequantizeTQ1_0(const std::byte* in, int64_t n, float* out) {
  ForBlocks<kBlock, 54>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block + 52);
    for (int digit = 0; digit < 5; ++digit) {
      Digits(block, 32, digit, scale, y + digit * 32);
      Digits(block + 32, 16, digit, scale, y + 160 + digit * 16);
    }
    for (int digit = 0; digit < 4; ++digit) {
      Digits(block + 48, 4, digit, scale, y + 240 + digit * 4);
    }
  });
}

// 64 bytes of four 2-bit values 32 apart, an f16.
void DequantizeTQ2_0(const std::byte* in, int64_t n, float* out) {
  ForBlocks<kBlock, 66>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block + 64);
    for (int run = 0; run < 8; ++run) {
      const uint8_t* q = block + run / 4 * 32;
      const int shift = run % 4 * 2;
      for (int i = 0; i < 32; ++i) {
        y[run * 32 + i] = scale * static_cast<float>((q[i] >> shift & 3) - 1);
      }
    }
  });
}

}  // namespace hostler
