#include "engine/compute/quantize.h"

#include <algorithm>
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

void QuantizeBlock(const float* x, std::byte* out) {
  float largest = 0;
  bool finite = true;
  for (int i = 0; i < kBlock; ++i) {
    largest = std::max(largest, std::fabs(x[i]));
    finite &= std::isfinite(x[i]);
  }
  const float scale = finite ? largest / 127 : NAN;
  const float inverse = scale > 0 ? 1 / scale : 0;
  const uint16_t half = F32ToF16(scale);
  // A scale past the largest half is stored as NaN: infinity times q = 0 is one too.
  StoreAs(out, 0, half);
  const bool usable = (half & 0x7c00) != 0x7c00 && std::isfinite(inverse);
  for (int i = 0; i < kBlock; ++i) {
    const int q = usable ? static_cast<int>(std::round(x[i] * inverse)) : 0;
    out[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::clamp(q, -127, 127)));
  }
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
      for (int64_t i = 0; i < n; ++i) {
        const std::byte* block = in + i / kBlock * kBlockBytes;
        const float scale = F16ToF32(LoadAs<uint16_t>(block, 0));
        out[i] = scale * static_cast<float>(LoadAs<int8_t>(block + 2, i % kBlock));
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
