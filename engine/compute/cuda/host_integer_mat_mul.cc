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

// A group of at most kIntegerGroup columns.
void ToGroup(const float* x, int64_t n, int16_t* q, int32_t* sums, float* scale) {
  uint32_t most = 0;  // as bits: NaN is above infinity
  for (int64_t i = 0; i < n; ++i) {
    most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  }
  const float largest = std::bit_cast<float>(most);
  *scale = largest * (1.0f / kMostQuant);
  const float inverse = largest >= 1e-30f ? kMostQuant / largest : 0;
  for (int64_t i = 0; i < n; ++i) {
    const float scaled = x[i] * inverse;
    // Infinity times 0 gives no number.
    const float rounded = std::isnan(scaled) ? -kMostQuant : std::nearbyint(scaled);
    q[i] = static_cast<int16_t>(std::clamp<float>(rounded, -kMostQuant, kMostQuant));
  }
  for (int64_t i = 0; i < n; i += 16) {
    int32_t sum = 0;
    for (int j = 0; j < 16; ++j) sum += q[i + j];
    sums[i / 16] = sum;
  }
}

// Of weights [first, first + n).
int32_t Dot(const int8_t* w, const int16_t* x, int first, int n) {
  int32_t sum = 0;
  for (int i = first; i < first + n; ++i) sum += int32_t{w[i]} * x[i];
  return sum;
}

template <typename Format>
void Multiply(const Weight& w, const HostIntegerInputs& x, float* y, int64_t y_stride) {
  constexpr int kTile = 8;  // tokens that share a row's integers
  const int64_t blocks = w.cols / kIntegerBlock, sums_stride = w.cols / 16;
  const int64_t groups = (blocks + kGroupBlocks - 1) / kGroupBlocks;
  const size_t row_bytes = RowBytes(w.dtype, w.cols);
  for (int64_t first = 0; first < x.rows; first += kTile) {
    const int64_t tokens = std::min<int64_t>(kTile, x.rows - first);
    for (int64_t r = 0; r < w.rows; ++r) {
      const auto* row = reinterpret_cast<const uint8_t*>(w.data) + size_t(r) * row_bytes;
      float sums[kTile] = {}, parts[kTile] = {};
      for (int64_t b = 0; b < blocks; ++b) {
        IntegerBlock block;
        Format::template Decode<HostBytes>(row, b, &block);
        int8_t q[kIntegerBlock];
        std::memcpy(q, block.q, sizeof q);
        const bool last = b % kGroupBlocks == kGroupBlocks - 1 || b == blocks - 1;
        for (int64_t t = 0; t < tokens; ++t) {
          const int16_t* in = x.q.data() + (first + t) * x.cols + b * kIntegerBlock;
          const int32_t* in_sums = x.sums.data() + (first + t) * sums_stride + 2 * b;
          float part = parts[t];
          if constexpr (Format::kHalves) {
            for (int h = 0; h < 2; ++h) {
              part = std::fma(static_cast<float>(Dot(q, in, 16 * h, 16)), block.scale[h], part);
            }
            for (int h = 0; Format::kMins && h < 2; ++h) {
              part = std::fma(-block.least[h], static_cast<float>(in_sums[h]), part);
            }
          } else {
            part = std::fma(static_cast<float>(Dot(q, in, 0, 32)), block.scale[0], part);
            if constexpr (Format::kMins) {
              part = std::fma(-block.least[0], static_cast<float>(in_sums[0] + in_sums[1]), part);
            }
          }
          if (last) {
            const float scale = x.scales[size_t((first + t) * groups + b / kGroupBlocks)];
            sums[t] = std::fma(part, scale, sums[t]);
            part = 0;
          }
          parts[t] = part;
        }
      }
      for (int64_t t = 0; t < tokens; ++t) y[(first + t) * y_stride + r] = sums[t];
    }
  }
}

}  // namespace

void HostIntegerInputs::Set(Mat x) {
  rows = x.rows;
  cols = x.cols;
  const int64_t groups = (cols + kIntegerGroup - 1) / kIntegerGroup;
  q.resize(size_t(rows * cols));
  sums.resize(size_t(rows * (cols / 16)));
  scales.resize(size_t(rows * groups));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t at = r * cols + g * kIntegerGroup;
      const int64_t n = std::min<int64_t>(kIntegerGroup, cols - g * kIntegerGroup);
      ToGroup(x.data + at, n, q.data() + at, sums.data() + at / 16,
              &scales[size_t(r * groups + g)]);
    }
  }
}

void HostIntegerMatMul(const Weight& w, const HostIntegerInputs& x, float* y, int64_t y_stride) {
  ForIntegers(w.dtype, [&](auto format) { Multiply<decltype(format)>(w, x, y, y_stride); });
}

}  // namespace hostler
