#include <array>

#include "engine/compute/dequantize.h"

namespace hostler {
namespace {

constexpr int kHalf = 16;  // low nibbles are a block's first half, high ones its second

// The fifth bits of a block of 32, in place, from 4 bytes. A table of the bits and
// not shifts: compilers then turn the loop into vector code.
void FifthBits(const uint8_t* p, uint8_t* out) {
  static constexpr std::array<uint32_t, 32> kBits = [] {
    std::array<uint32_t, 32> bits{};
    for (int i = 0; i < 32; ++i) bits[i] = uint32_t{1} << i;
    return bits;
  }();
  uint32_t packed;
  std::memcpy(&packed, p, sizeof packed);
  for (int i = 0; i < 32; ++i) out[i] = (packed & kBits[i]) != 0 ? 16 : 0;
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
    uint8_t high[2 * kHalf];
    FifthBits(block + 2, high);
    const uint8_t* q = block + 6;
    for (int i = 0; i < kHalf; ++i) {
      y[i] = scale * static_cast<float>(((q[i] & 15) | high[i]) - 16);
      y[i + kHalf] = scale * static_cast<float>((q[i] >> 4 | high[i + kHalf]) - 16);
    }
  });
}

void DequantizeQ5_1(const std::byte* in, int64_t n, float* out) {
  ForBlocks<32, 24>(in, n, out, [](const uint8_t* block, float* y) {
    const float scale = ScaleAt(block);
    const float least = ScaleAt(block + 2);
    uint8_t high[2 * kHalf];
    FifthBits(block + 4, high);
    const uint8_t* q = block + 8;
    for (int i = 0; i < kHalf; ++i) {
      y[i] = scale * static_cast<float>((q[i] & 15) | high[i]) + least;
      y[i + kHalf] = scale * static_cast<float>(q[i] >> 4 | high[i + kHalf]) + least;
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
