#include "engine/compute/cuda/device.cuh"
#include "engine/compute/cuda/host_share.h"
#include "engine/compute/cuda/kernels.h"

namespace hostler {
namespace {

constexpr int kThreads = 128;

__global__ void ScatterRowsKernel(Mat from, const int32_t* rows, Mat out) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t row = index / from.cols, column = index % from.cols;
  if (row < from.rows) out.row(rows[row])[column] = from.row(row)[column];
}

}  // namespace

void LaunchScatterRows(Launcher& launcher, Mat from, const int32_t* rows, Mat out) {
  const int64_t count = from.rows * from.cols;
  const Shape shape = {dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)),
                       dim3(kThreads), 0, /*independent=*/true};
  launcher.Run(shape, {{RangeOf(from), RangeOf(rows, from.rows)}, {RangeOf(out)}},
               &ScatterRowsKernel, from, rows, out);
}

}  // namespace hostler
