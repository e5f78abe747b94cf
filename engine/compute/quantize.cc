#include "engine/compute/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/compute/half.h"
#include "engine/compute/to_f32.h"

namespace hostler {
namespace {

constexpr int kBlock = 32;

template <typename T>
void StoreAs(std::byte* out, int64_t i, T value) {
  std::memcpy(out + i * sizeof(T), &value, sizeof(T));
}

// max|x| of a block; infinity or NaN when one of them is in it. As integers,
// magnitudes are in order, infinity and NaN above all others.
float LargestMagnitude(const float* x) {
  int32_t largest = 0;
  for (int i = 0; i < kBlock; ++i) {
    largest = std::max(largest, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  }
  return std::bit_cast<float>(largest);
}

// Written so that compilers turn each loop into vector code.
void QuantizeBlockQ8_0(const float* x, std::byte* out) {
  const float largest = LargestMagnitude(x);
  const float scale = std::isfinite(largest) ? largest / 127 : NAN;
  const float inverse = scale > 0 ? 1 / scale : 0;
  const uint16_t half = F32ToF16(scale);
  StoreAs(out, 0, half);
  // With q = 0 a scale of infinity reads back as NaN too.
  const bool usable = (half & 0x7c00) != 0x7c00 && std::isfinite(inverse);
  int8_t q[kBlock] = {};
  if (usable) {
    for (int i = 0; i < kBlock; ++i) {
      const float scaled = x[i] * inverse;
      const int32_t whole = static_cast<int32_t>(scaled);
      const float rest = scaled - static_cast<float>(whole);
      q[i] = static_cast<int8_t>(whole + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0));
    }
  }
  std::memcpy(out + 2, q, sizeof q);
}

void StoreNibbles(const std::array<uint8_t, kBlock>& q, std::byte* out) {
  for (int i = 0; i < kBlock / 2; ++i) out[i] = static_cast<std::byte>(q[i] | q[i + 16] << 4);
}

void QuantizeBlockQ4_0(const float* x, std::byte* out) {
  const float largest = LargestMagnitude(x);
  // -8 reaches further than 7: the value of largest magnitude gets it.
  float extreme = std::isfinite(largest) ? 0 : NAN;
  for (int i = 0; i < kBlock && std::isfinite(largest); ++i) {
    if (std::fabs(x[i]) == largest) {
      extreme = x[i];
      break;
    }
  }
  const float scale = extreme / -8;
  const float inverse = scale != 0 ? 1 / scale : 0;
  const uint16_t half = F32ToF16(scale);
  StoreAs(out, 0, half);
  // With q = 0 a scale of infinity reads back as NaN too.
  const bool usable = (half & 0x7c00) != 0x7c00 && std::isfinite(inverse);
  std::array<uint8_t, kBlock> q;
  q.fill(8);
  if (usable) {
    for (int i = 0; i < kBlock; ++i) {
      q[i] = static_cast<uint8_t>(std::min(static_cast<int>(x[i] * inverse + 8.5f), 15));
    }
  }
  StoreNibbles(q, out + 2);
}

// The nearest E2M1 magnitude's bits, ties to the even one. `x` is not negative.
uint8_t NearestE2M1(float x) {
  constexpr float kMiddles[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  uint8_t bits = 0;
  for (int i = 0; i < 7; ++i) bits += x > kMiddles[i] || (x == kMiddles[i] && i % 2 == 1);
  return bits;
}

void QuantizeBlockMxfp4(const float* x, std::byte* out) {
  constexpr int kLargestExponent = 2;  // E2M1's largest value is 1.5 * 2^2
  const float largest = LargestMagnitude(x);
  std::array<uint8_t, kBlock> q{};
  if (!std::isfinite(largest)) {
    out[0] = std::byte{255};
  } else {
    const int exponent = largest > 0 ? std::ilogb(largest) - kLargestExponent : -127;
    const int stored = std::max(exponent, -127);
    out[0] = static_cast<std::byte>(stored + 127);
    for (int i = 0; i < kBlock; ++i) {
      q[i] = NearestE2M1(std::ldexp(std::fabs(x[i]), -stored));
      if (q[i] != 0 && x[i] < 0) q[i] |= 8;
    }
  }
  StoreNibbles(q, out + 1);
}

void ConvertFromF32(DType type, const float* in, int64_t n, std::byte* out) {
  switch (type) {
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) StoreAs(out, i, F32ToF16(in[i]));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) StoreAs(out, i, F32ToBf16(in[i]));
      return;
    case DType::kQ8_0:
      return QuantizeQ8_0(in, n, out);
    case DType::kQ4_0:
      return QuantizeQ4_0(in, n, out);
    case DType::kMXFP4:
      return QuantizeMxfp4(in, n, out);
    default:
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
  }
}

}  // namespace

bool CanConvertTo(DType to) {
  switch (to) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kMXFP4:
      return true;
    default:
      return false;
  }
}

void QuantizeQ8_0(const float* x, int64_t n, std::byte* out) {
  const int bytes = GetDTypeInfo(DType::kQ8_0).block_bytes;
  for (int64_t i = 0; i < n / kBlock; ++i) QuantizeBlockQ8_0(x + i * kBlock, out + i * bytes);
}

void QuantizeQ4_0(const float* x, int64_t n, std::byte* out) {
  const int bytes = GetDTypeInfo(DType::kQ4_0).block_bytes;
  for (int64_t i = 0; i < n / kBlock; ++i) QuantizeBlockQ4_0(x + i * kBlock, out + i * bytes);
}

void QuantizeMxfp4(const float* x, int64_t n, std::byte* out) {
  const int bytes = GetDTypeInfo(DType::kMXFP4).block_bytes;
  for (int64_t i = 0; i < n / kBlock; ++i) QuantizeBlockMxfp4(x + i * kBlock, out + i * bytes);
}

void ConvertToF32(DType type, const std::byte* in, int64_t n, float* out) {
  GetToF32(type)(in, n, out);
}

void ConvertRows(DType from, DType to, const std::byte* in, int64_t n, std::byte* out) {
  if (from == to) {
    std::memcpy(out, in, RowBytes(from, n));
    return;
  }
  constexpr int64_t kRun = 1024;  // a multiple of every block
  float values[kRun];
  for (int64_t i = 0; i < n; i += kRun) {
    const int64_t run = std::min(kRun, n - i);
    ConvertToF32(from, in + RowBytes(from, i), run, values);
    ConvertFromF32(to, values, run, out + RowBytes(to, i));
  }
}

}  // namespace hostler
