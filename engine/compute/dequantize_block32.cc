#include "engine/compute/dequantize.h"

namespace hostler {
namespace {

constexpr int kHalf = 16;  // low nibbles are a block's first half, high ones its second

uint32_t HighBitsAt(const uint8_t* p) {
  uint32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}

}  // namespace

void DequantizeQ4_0(const std::byte* in, int64_t n, float* out) {
  ForBlocks<32, 18>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block);
    const uint8_t* q = block + 2;
    for (int i = 0; i < kHalf; ++i) {
      y[i] = scale * static_cast<float>((q[i] & 15) - 8);
      y[i + kHalf] = scale * static_cast<float>((q[i] >> 4) - 8);
    }
  });
}

void DequantizeQ4_1(const std::byte* in, int64_t n, float* out) {
  ForBlocks<32, 20>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block);
    const float least = ScaleAt(block + 2);
    const uint8_t* q = block + 4;
    for (int i = 0; i < kHalf; ++i) {
      y[i] = scale * static_cast<float>(q[i] & 15) + least;
      y[i + kHalf] = scale * static_cast<float>(q[i] >> 4) + least;
    }
  });
}

void DequantizeQ5_0(const std::byte* in, int64_t n, float* out) {
  ForBlocks<32, 22>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block);
    const uint32_t high = HighBitsAt(block + 2);
    const uint8_t* q = block + 6;
    for (int i = 0; i < kHalf; ++i) {
      const int low_half = (q[i] & 15) | static_cast<int>(high >> i & 1) << 4;
      const int high_half = (q[i] >> 4) | static_cast<int>(high >> (i + kHalf) & 1) << 4;
      y[i] = scale * static_cast<float>(low_half - 16);
      y[i + kHalf] = scale * static_cast<float>(high_half - 16);
    }
  });
}

void DequantizeQ5_1(const std::byte* in, int64_t n, float* out) {
  ForBlocks<32, 24>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block);
    const float least = ScaleAt(block + 2);
    const uint32_t high = HighBitsAt(block + 4);
    const uint8_t* q = block + 8;
    for (int i = 0; i < kHalf; ++i) {
      const int low_half = (q[i] & 15) | static_cast<int>(high >> i & 1) << 4;
      const int high_half = (q[i] >> 4) | static_cast<int>(high >> (i + kHalf) & 1) << 4;
      y[i] = scale * static_cast<float>(low_half) + least;
      y[i + kHalf] = scale * static_cast<float>(high_half) + least;
    }
  });
}

void DequantizeQ8_0(const std::byte* in, int64_t n, float* out) {
  ForBlocks<32, 34>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block);
    const int8_t* q = reinterpret_cast<const int8_t*>(block + 2);
    for (int i = 0; i < 2 * kHalf; ++i) y[i] = scale * static_cast<float>(q[i]);
  });
}

}  // namespace hostler
