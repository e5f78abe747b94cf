// Launches kernels: the one place where CUDA's own syntax for that stands.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <initializer_list>
#include <span>
#include <tuple>
#include <utility>

#if defined(HOSTLER_CUDA_EMULATED)
#include "engine/compute/cuda/emulation/emulation.h"
#endif

namespace hostler {

struct Shape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  // No thread of a block waits for another.
  bool independent = false;
};

// Memory that a kernel reads or writes. What the emulation checks is what is said
// here; a device does not look at it.
struct DeviceRange {
  const void* data = nullptr;
  size_t bytes = 0;
};
struct Uses {
  std::initializer_list<DeviceRange> reads, writes;
  std::span<const DeviceRange> also_reads = {};
};

// Queues kernels on a stream. After an error nothing more is queued, until it is taken.
class Launcher {
 public:
  cudaStream_t stream = nullptr;

  bool ok() const { return error_ == cudaSuccess; }
  cudaError_t TakeError() { return std::exchange(error_, cudaSuccess); }
  // Returns whether all is well.
  bool Check(cudaError_t error) {
    if (ok()) error_ = error;
    return ok();
  }

#if defined(__CUDACC__) || defined(HOSTLER_CUDA_EMULATED)
  template <typename... P, typename... A>
  void Run(const Shape& shape, const Uses& uses, void (*kernel)(P...), const A&... arguments) {
    if (!ok() || shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
#if defined(__CUDACC__)
    (void)uses;
    kernel<<<shape.grid, shape.block, shape.shared_bytes, stream>>>(arguments...);
    Check(cudaGetLastError());
#else  // the emulation
    static_assert(sizeof(DeviceRange) == sizeof(cuda_emulation::Range));
    const auto ranges = [](const DeviceRange* list, size_t count) {
      return std::span(reinterpret_cast<const cuda_emulation::Range*>(list), count);
    };
    Check(cuda_emulation::LaunchKernel(
        {shape.grid, shape.block, shape.shared_bytes, shape.independent,
         ranges(uses.reads.begin(), uses.reads.size()),
         ranges(uses.also_reads.data(), uses.also_reads.size()),
         ranges(uses.writes.begin(), uses.writes.size())},
        stream, [kernel, kept = std::tuple<P...>(arguments...)] { std::apply(kernel, kept); }));
#endif
  }
#endif

 private:
  cudaError_t error_ = cudaSuccess;
};

}  // namespace hostler
