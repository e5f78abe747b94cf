#include "engine/compute/cuda/host_mat_mul.h"

#include <algorithm>
#include <cstring>

#include "engine/compute/to_f32.h"

namespace hostler {
namespace {

// Rows of weights that a thread takes at a time.
constexpr int64_t kRowsAtOnce = 8;
constexpr int64_t kTokensAtOnce = 64;

using SumRow = void (*)(const HostRow& row, float* sums);

SumRow BestSumRow() {
#if defined(HOSTLER_X86)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return SumHostRowAvx2;
#endif
  return SumHostRowPortable;
}

}  // namespace

void HostInput::Resize(int64_t rows, int64_t cols) {
  rows_ = rows;
  cols_ = cols;
  values_.resize(static_cast<size_t>(rows * blocks() * kBlock));
}

void HostInput::Set(int64_t row, const float* x, float scale) {
  float* out = values_.data() + row * blocks() * kBlock;
  for (int64_t first = 0; first < cols_; first += kBlock) {
    for (int64_t at = 0; at < kBlock; ++at) {
      const int64_t column = first + at;
      out[first + at % kGroup * kLanes + at / kGroup] = column < cols_ ? x[column] * scale : 0;
    }
  }
}

void HostMatMul::Run(DType type, const std::byte* w, const std::byte* bias, int64_t rows,
                     const HostInput& x, float* y, int64_t y_stride) {
  static const SumRow sum_row = BestSumRow();
  const ToF32Function to_f32 = GetToF32(type);
  const size_t row_bytes = RowBytes(type, x.cols());
  const int64_t padded = x.blocks() * HostInput::kBlock;
  for (std::vector<float>& values : scratch_) values.assign(static_cast<size_t>(padded), 0.0f);
  pool_.ParallelFor((rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](int64_t chunk, int thread) {
    float* const values = scratch_[thread].data();
    float sums[kTokensAtOnce];
    const int64_t end = std::min(rows, (chunk + 1) * kRowsAtOnce);
    for (int64_t r = chunk * kRowsAtOnce; r < end; ++r) {
      to_f32(w + static_cast<size_t>(r) * row_bytes, x.cols(), values);
      float added = 0;
      if (bias != nullptr) std::memcpy(&added, bias + 4 * r, sizeof added);
      for (int64_t first = 0; first < x.rows(); first += kTokensAtOnce) {
        const int64_t tokens = std::min(kTokensAtOnce, x.rows() - first);
        sum_row({values, x.row(first), x.cols(), tokens, padded}, sums);
        for (int64_t t = 0; t < tokens; ++t) {
          y[(first + t) * y_stride + r] = bias == nullptr ? sums[t] : sums[t] + added;
        }
      }
    }
  });
}

}  // namespace hostler
