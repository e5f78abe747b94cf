#include <array>
#include <bit>
#include <limits>

#include "engine/compute/dequantize.h"

namespace hostler {
namespace {

constexpr float F8E4M3Value(int bits) {
  const int exponent = bits >> 3 & 15;
  const int mantissa = bits & 7;
  float value = 0;
  if ((bits & 0x7f) == 0x7f) {
    value = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = static_cast<float>(mantissa) * 0x1p-9f;
  } else {
    value = std::bit_cast<float>(uint32_t(exponent + 120) << 23 | uint32_t(mantissa) << 20);
  }
  return bits & 0x80 ? -value : value;
}

constexpr std::array<float, 256> kF8E4M3 = [] {
  std::array<float, 256> table{};
  for (int bits = 0; bits < 256; ++bits) table[bits] = F8E4M3Value(bits);
  return table;
}();

uint16_t BitsAt(const std::byte* in, int64_t i) {
  uint16_t bits;
  std::memcpy(&bits, in + i * sizeof bits, sizeof bits);
  return bits;
}

}  // namespace

void DequantizeF32(const std::byte* in, int64_t n, float* out) {
  std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
}

void DequantizeF16(const std::byte* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = F16ToF32(BitsAt(in, i));
}

void DequantizeBf16(const std::byte* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = Bf16ToF32(BitsAt(in, i));
}

void DequantizeF8E4M3(const std::byte* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = kF8E4M3[std::to_integer<uint8_t>(in[i])];
}

}  // namespace hostler
