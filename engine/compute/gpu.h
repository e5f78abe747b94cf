// What there is to know of GPUs, whatever computes on them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hostler {

struct Gpu {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  double clock_hz = 0;  // of the multiprocessors, at most
  uint64_t memory_bytes = 0, free_bytes = 0;
  double memory_bytes_s = 0;    // by its memory's clock and bus width; 0: not told
  int driver = 0, runtime = 0;  // CUDA's versions as CUDA numbers them: 12040 is 12.4
  bool emulated = false;        // by the host, for tests

  std::string Capability() const { return std::to_string(major) + "." + std::to_string(minor); }
};

// Bytes a second of copies of `copied_bytes` each.
struct GpuSpeed {
  double memory_bytes_s = 0;  // within its memory: what is read and what is written
  double to_device_bytes_s = 0, to_host_bytes_s = 0;  // of pinned memory of the host
};

// "12.4" for 12040.
inline std::string CudaVersion(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Those that CUDA sees, or the emulation's one. Errors: NotFound when there are none, saying
// why. In hostler_cuda.
absl::StatusOr<std::vector<Gpu>> ListGpus();
// Copies for `seconds` each way, after a first copy that does not count. Errors:
// NotFound; ResourceExhausted for two buffers of that size.
absl::StatusOr<GpuSpeed> MeasureGpu(int index, uint64_t copied_bytes, double seconds);

}  // namespace hostler
