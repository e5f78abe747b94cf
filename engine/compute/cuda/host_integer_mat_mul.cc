#include "engine/compute/cuda/host_integer_mat_mul.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/compute/dequantize.h"

namespace hostler {
namespace {

struct HostBytes {
  template <int n>
  static void Words(const uint8_t* p, uint32_t* out) {
    static_assert(std::endian::native == std::endian::little);
    std::memcpy(out, p, n * sizeof(uint32_t));
  }
  static float Half(const uint8_t* p) { return ScaleAt(p); }
  template <DType type>
  static void LookUp(uint32_t word, uint32_t* low, uint32_t* high) {
    *low = *high = 0;
    for (int i = 0; i < 8; ++i) {
      const uint32_t entry = static_cast<uint8_t>(TableEntry<type>(word >> 4 * i & 15));
      *(i % 2 == 0 ? low : high) |= entry << i / 2 * 8;
    }
  }
};

using SumRow = void (*)(const HostIntegerRow& row, float* sums);

SumRow BestSumRow() {
#if defined(HOSTLER_X86)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return SumHostIntegersAvx2;
#endif
  return SumHostIntegersPortable;
}

template <typename Format>
void Multiply(const Weight& w, const HostIntegerInputs& x, float* y, int64_t y_stride) {
  static const SumRow sum_row = BestSumRow();
  const int64_t blocks = w.cols / kIntegerBlock;
  const size_t row_bytes = RowBytes(w.dtype, w.cols);
  std::vector<int16_t> weights(static_cast<size_t>(w.cols));
  std::vector<float> scales(static_cast<size_t>(4 * blocks)), sums(static_cast<size_t>(x.rows));
  for (int64_t r = 0; r < w.rows; ++r) {
    const auto* row = reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(r) * row_bytes;
    for (int64_t b = 0; b < blocks; ++b) {
      IntegerBlock block = {};
      Format::template Decode<HostBytes>(row, b, &block);
      int8_t q[kIntegerBlock];
      std::memcpy(q, block.q, sizeof q);
      std::copy_n(q, kIntegerBlock, weights.data() + b * kIntegerBlock);
      std::copy_n(block.scale, 2, scales.data() + 4 * b);
      std::copy_n(block.least, 2, scales.data() + 4 * b + 2);
    }
    sum_row({weights.data(), scales.data(), Format::kHalves, Format::kMins, &x}, sums.data());
    for (int64_t t = 0; t < x.rows; ++t) y[t * y_stride + r] = sums[static_cast<size_t>(t)];
  }
}

}  // namespace

HostIntegerInputs::HostIntegerInputs(Mat x) {
  Resize(x.rows, x.cols);
  for (int64_t r = 0; r < rows; ++r) Set(r, x.row(r));
}

void HostIntegerInputs::Resize(int64_t new_rows, int64_t new_cols) {
  rows = new_rows;
  cols = new_cols;
  q.resize(static_cast<size_t>(rows * cols));
  sums.resize(static_cast<size_t>(rows * (cols / 16)));
  scales.resize(static_cast<size_t>(rows * groups()));
}

void HostIntegerInputs::Set(int64_t row, const float* x) {
  for (int64_t g = 0; g < groups(); ++g) {
    const int64_t first = g * kIntegerGroup, n = std::min<int64_t>(kIntegerGroup, cols - first);
    const float* values = x + first;
    uint32_t most = 0;  // as bits: NaN is above infinity
    for (int64_t i = 0; i < n; ++i) {
      most = std::max(most, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
    }
    const float largest = std::bit_cast<float>(most);
    scales[static_cast<size_t>(row * groups() + g)] = largest * (1.0f / kMostQuant);
    const float inverse = largest >= 1e-30f ? kMostQuant / largest : 0;
    int16_t* out = q.data() + row * cols + first;
    for (int64_t i = 0; i < n; ++i) {
      const float scaled = values[i] * inverse;
      // Infinity times 0 gives no number.
      const float rounded = std::isnan(scaled) ? -kMostQuant : std::nearbyint(scaled);
      out[i] = static_cast<int16_t>(std::clamp<float>(rounded, -kMostQuant, kMostQuant));
    }
    float* out_sums = sums.data() + (row * cols + first) / 16;
    for (int64_t i = 0; i < n; i += 16) {
      int32_t sum = 0;
      for (int j = 0; j < 16; ++j) sum += out[i + j];
      out_sums[i / 16] = static_cast<float>(sum);
    }
  }
}

void HostIntegerMatMul(const Weight& w, const HostIntegerInputs& x, float* y, int64_t y_stride) {
  ForIntegers(w.dtype, [&](auto format) { Multiply<decltype(format)>(w, x, y, y_stride); });
}

}  // namespace hostler
