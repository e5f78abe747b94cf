// The host's twin of the device's products in integers: the same bits (see integers.h), so
// that where a product is computed does not show.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cuda/integers.h"

namespace hostler {

// Rows of inputs as integers. cols is a multiple of kIntegerBlock.
struct HostIntegerInputs {
  HostIntegerInputs() = default;
  explicit HostIntegerInputs(Mat x);

  void Resize(int64_t new_rows, int64_t new_cols);  // keeps its memory
  // Any number of threads may set rows of their own at a time.
  void Set(int64_t row, const float* x);
  int64_t groups() const { return (cols + kIntegerGroup - 1) / kIntegerGroup; }

  int64_t rows = 0, cols = 0;
  std::vector<int16_t> q;     // [rows, cols]
  std::vector<float> sums;    // [rows, cols / 16], of q
  std::vector<float> scales;  // [rows, groups of kIntegerGroup columns, the last maybe shorter]
};

// y[t * y_stride + r] = x[t] · row r of w. Any number of threads may compute parts of w
// (rows of their own) at a time. REQUIRES: HasIntegers(w.dtype), rows not interleaved, in
// memory of the host
void HostIntegerMatMul(const Weight& w, const HostIntegerInputs& x, float* y, int64_t y_stride);

// Sums of one row of weights with rows of input: sums[t]. By instructions that the CPU has.
struct HostIntegerRow {
  const int16_t* w = nullptr;     // [cols]
  const float* scales = nullptr;  // [blocks, 4]: two scales, two minima
  bool halves = false, mins = false;
  const HostIntegerInputs* x = nullptr;
};
void SumHostIntegersPortable(const HostIntegerRow& row, float* sums);
void SumHostIntegersAvx2(const HostIntegerRow& row, float* sums);  // REQUIRES: AVX2 and FMA

}  // namespace hostler
