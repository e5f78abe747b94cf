#include "engine/compute/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/compute/half.h"

namespace hostler {
namespace {

constexpr int kBlock = 32;
constexpr int kBlockBytes = 34;

template <typename T>
T LoadAs(const std::byte* in, int64_t i) {
  T value;
  std::memcpy(&value, in + i * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void StoreAs(std::byte* out, int64_t i, T value) {
  std::memcpy(out + i * sizeof(T), &value, sizeof(T));
}

// Written so that compilers turn each loop into vector code.
void QuantizeBlock(const float* x, std::byte* out) {
  // As integers, magnitudes are in order, infinity and NaN above all others.
  int32_t largest = 0;
  for (int i = 0; i < kBlock; ++i) {
    largest = std::max(largest, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  }
  const bool finite = largest < 0x7f800000;
  const float scale = finite ? std::bit_cast<float>(largest) / 127 : NAN;
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

void ConvertFromF32(DType type, const float* in, int64_t n, std::byte* out) {
  switch (type) {
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) StoreAs(out, i, F32ToF16(in[i]));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) StoreAs(out, i, F32ToBf16(in[i]));
      return;
    case DType::kQ8_0:
      QuantizeQ8_0(in, n, out);
      return;
    default:
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
  }
}

}  // namespace

void QuantizeQ8_0(const float* x, int64_t n, std::byte* out) {
  for (int64_t i = 0; i < n / kBlock; ++i) QuantizeBlock(x + i * kBlock, out + i * kBlockBytes);
}

void ConvertToF32(DType type, const std::byte* in, int64_t n, float* out) {
  switch (type) {
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) out[i] = F16ToF32(LoadAs<uint16_t>(in, i));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) out[i] = Bf16ToF32(LoadAs<uint16_t>(in, i));
      return;
    case DType::kQ8_0:
      for (int64_t b = 0; b < n / kBlock; ++b) {
        const std::byte* block = in + b * kBlockBytes;
        const float scale = F16ToF32(LoadAs<uint16_t>(block, 0));
        for (int i = 0; i < kBlock; ++i) {
          out[b * kBlock + i] = scale * static_cast<float>(LoadAs<int8_t>(block + 2, i));
        }
      }
      return;
    default:
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
  }
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
