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

void HostInput::Resize(int64_t rows, int64_t cols, Forms forms) {
  rows_ = rows;
  cols_ = cols;
  forms_ = forms;
  if (forms.floats) values_.resize(static_cast<size_t>(rows * blocks() * kBlock));
  if (forms.integers) integers_.Resize(rows, cols);
}

void HostInput::Set(int64_t row, const float* x, float scale) {
  if (forms_.integers) integers_.Set(row, x, scale);
  if (!forms_.floats) return;
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
  const bool integers = UsesIntegers(type);
  pool_.ParallelFor((rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](int64_t chunk, int thread) {
    const int64_t begin = chunk * kRowsAtOnce, end = std::min(rows, begin + kRowsAtOnce);
    if (integers) {
      const Weight part = {type, end - begin, x.cols(), w + static_cast<size_t>(begin) * row_bytes};
      HostIntegerMatMul(part, x.integers(), y + begin, y_stride);
    }
    float* const values = scratch_[thread].data();
    float sums[kTokensAtOnce];
    for (int64_t r = begin; r < end; ++r) {
      float added = 0;
      if (bias != nullptr) std::memcpy(&added, bias + 4 * r, sizeof added);
      if (!integers) to_f32(w + static_cast<size_t>(r) * row_bytes, x.cols(), values);
      for (int64_t first = 0; first < x.rows(); first += kTokensAtOnce) {
        const int64_t tokens = std::min(kTokensAtOnce, x.rows() - first);
        if (!integers) sum_row({values, x.row(first), x.cols(), tokens, padded}, sums);
        for (int64_t t = 0; t < tokens; ++t) {
          float& out = y[(first + t) * y_stride + r];
          if (!integers) out = sums[t];
          if (bias != nullptr) out += added;
        }
      }
    }
  });
}

}  // namespace hostler
