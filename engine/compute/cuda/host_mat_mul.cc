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

void HostInput::Set(Mat x) {
  rows_ = x.rows;
  cols_ = x.cols;
  values_.assign(static_cast<size_t>(rows_ * blocks() * kBlock), 0.0f);
  for (int64_t row = 0; row < rows_; ++row) {
    const float* in = x.row(row);
    float* out = values_.data() + row * blocks() * kBlock;
    for (int64_t column = 0; column < cols_; ++column) {
      const int64_t at = column % kBlock;
      out[column - at + at % kGroup * kLanes + at / kGroup] = in[column];
    }
  }
}

void HostMatMul::RunIntegers(const Weight& w, const std::byte* bias, Mat x, Mat y) {
  integer_inputs_.Resize(x.rows, x.cols);
  pool_.ParallelFor(x.rows, [&](int64_t t, int) { integer_inputs_.Set(t, x.row(t)); });
  pool_.ParallelFor((w.rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](int64_t chunk, int) {
    const int64_t first = chunk * kRowsAtOnce, rows = std::min(kRowsAtOnce, w.rows - first);
    const Weight part = {w.dtype, rows, w.cols,
                         w.data + static_cast<size_t>(first) * RowBytes(w.dtype, w.cols)};
    HostIntegerMatMul(part, integer_inputs_, y.data + first, y.cols);
    for (int64_t r = first; bias != nullptr && r < first + rows; ++r) {
      float added = 0;
      std::memcpy(&added, bias + 4 * r, sizeof added);
      for (int64_t t = 0; t < y.rows; ++t) y.row(t)[r] += added;
    }
  });
}

void HostMatMul::Run(const Weight& w, const std::byte* bias, Mat x, Mat y) {
  if (integers_ && HasIntegers(w.dtype)) return RunIntegers(w, bias, x, y);
  static const SumRow sum_row = BestSumRow();
  const ToF32Function to_f32 = GetToF32(w.dtype);
  const size_t row_bytes = RowBytes(w.dtype, w.cols);
  input_.Set(x);
  const int64_t padded = input_.blocks() * HostInput::kBlock;
  for (std::vector<float>& values : scratch_) values.assign(static_cast<size_t>(padded), 0.0f);
  pool_.ParallelFor((w.rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](int64_t chunk, int thread) {
    float* const values = scratch_[thread].data();
    float sums[kTokensAtOnce];
    const int64_t end = std::min(w.rows, (chunk + 1) * kRowsAtOnce);
    for (int64_t r = chunk * kRowsAtOnce; r < end; ++r) {
      to_f32(w.data + static_cast<size_t>(r) * row_bytes, w.cols, values);
      float added = 0;
      if (bias != nullptr) std::memcpy(&added, bias + 4 * r, sizeof added);
      for (int64_t first = 0; first < x.rows; first += kTokensAtOnce) {
        const int64_t tokens = std::min(kTokensAtOnce, x.rows - first);
        sum_row({values, input_.row(first), w.cols, tokens, padded}, sums);
        for (int64_t t = 0; t < tokens; ++t) {
          y.row(first + t)[r] = bias == nullptr ? sums[t] : sums[t] + added;
        }
      }
    }
  });
}

}  // namespace hostler
