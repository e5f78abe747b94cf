// Products on the host that give the bits of the device's (mat_mul.cuh): the same values
// of the weights, and for each result the same multiply-adds summed in the same order. Those
// in integers are host_integer_mat_mul.h's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/base/dtype.h"
#include "engine/compute/cpu/thread_pool.h"
#include "engine/compute/cuda/host_integer_mat_mul.h"

namespace hostler {

// Rows of input as the products take them. Of each 256 values, those that the lanes of a
// warp take at a time lie side by side: [rows][blocks][8][32].
class HostInput {
 public:
  static constexpr int kLanes = 32, kGroup = 8, kBlock = kLanes * kGroup;

  // What products take: floats, integers or both.
  struct Forms {
    bool floats = true, integers = false;
  };

  void Resize(int64_t rows, int64_t cols, Forms forms);
  // x[i] * scale of a row.
  void Set(int64_t row, const float* x, float scale);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t blocks() const { return (cols_ + kBlock - 1) / kBlock; }
  const HostIntegerInputs& integers() const { return integers_; }
  const float* row(int64_t i) const { return values_.data() + i * blocks() * kBlock; }

 private:
  int64_t rows_ = 0, cols_ = 0;
  Forms forms_;
  std::vector<float> values_;
  HostIntegerInputs integers_;
};

// Multiplies by matrices, with the threads of a pool. One thread at a time calls it.
class HostMatMul {
 public:
  // `pool` must outlive it. `integers`: products with types that have integers are in them.
  HostMatMul(ThreadPool* pool, bool integers)
      : pool_(*pool), integers_(integers), scratch_(pool->threads()) {}

  // What products with weights of two types take.
  HostInput::Forms FormsFor(DType a, DType b) const {
    return {!UsesIntegers(a) || !UsesIntegers(b), UsesIntegers(a) || UsesIntegers(b)};
  }

  // y[t, r] = x[t] · w[r] + bias[r] for every row of x and w; w [rows, x.cols()] of a
  // weight type, bias in f32 of any alignment or null.
  void Run(DType type, const std::byte* w, const std::byte* bias, int64_t rows, const HostInput& x,
           float* y, int64_t y_stride);

 private:
  bool UsesIntegers(DType type) const { return integers_ && HasIntegers(type); }

  ThreadPool& pool_;
  const bool integers_;
  std::vector<std::vector<float>> scratch_;  // of each thread: a row of weights
};

// Sums of one row of weights, f32 and zeros up to a whole block, with `tokens` rows of
// input: sums[t]. By instructions that the CPU has.
struct HostRow {
  const float* w = nullptr;
  const float* x = nullptr;
  int64_t cols = 0;
  int64_t tokens = 0;
  int64_t token_stride = 0;  // floats from row to row of x
};
void SumHostRowPortable(const HostRow& row, float* sums);
void SumHostRowAvx2(const HostRow& row, float* sums);  // REQUIRES: AVX2 and FMA

}  // namespace hostler
