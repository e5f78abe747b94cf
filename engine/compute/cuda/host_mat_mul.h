// Products on the host that give the bits of the device's (mat_mul.cuh): the same values
// of the weights, and for each result the same multiply-adds summed in the same order.
// Those in integers are host_integer_mat_mul.h's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cpu/thread_pool.h"
#include "engine/compute/cuda/host_integer_mat_mul.h"

namespace hostler {

// Rows of input as the products take them. Of each 256 values, those that the lanes of a
// warp take at a time lie side by side: [rows][blocks][8][32].
class HostInput {
 public:
  static constexpr int kLanes = 32, kGroup = 8, kBlock = kLanes * kGroup;

  void Set(Mat x);  // keeps its memory

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t blocks() const { return (cols_ + kBlock - 1) / kBlock; }
  const float* row(int64_t i) const { return values_.data() + i * blocks() * kBlock; }

 private:
  int64_t rows_ = 0, cols_ = 0;
  std::vector<float> values_;
};

// Multiplies by matrices, with the threads of a pool. One thread at a time calls it.
class HostMatMul {
 public:
  // `pool` must outlive it. integers: products with types that have integers are in them.
  HostMatMul(ThreadPool* pool, bool integers)
      : pool_(*pool), integers_(integers), scratch_(pool->threads()) {}

  // y = x · wᵀ + bias for x [tokens, w.cols] and y [tokens, w.rows]; bias in f32 of any
  // alignment, or null. REQUIRES: rows not interleaved
  void Run(const Weight& w, const std::byte* bias, Mat x, Mat y);

 private:
  void RunIntegers(const Weight& w, const std::byte* bias, Mat x, Mat y);

  ThreadPool& pool_;
  const bool integers_;
  HostInput input_;
  HostIntegerInputs integer_inputs_;
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
