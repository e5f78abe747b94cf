#include "engine/compute/gpu.h"

#include <algorithm>
#include <chrono>

#include "engine/base/status.h"
#include "engine/compute/cuda/device_memory.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;

#if defined(HOSTLER_CUDA_EMULATED)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

absl::StatusOr<Gpu> DescribeGpu(int index) {
  Gpu gpu;
  gpu.index = index;
  gpu.emulated = kEmulated;
  cudaError_t error = cudaSetDevice(index);
  const auto read = [&](cudaDeviceAttr attribute, int* value) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, index);
  };
  int clock_khz = 0, memory_khz = 0, bus_bits = 0;
  read(cudaDevAttrComputeCapabilityMajor, &gpu.major);
  read(cudaDevAttrComputeCapabilityMinor, &gpu.minor);
  read(cudaDevAttrMultiProcessorCount, &gpu.multiprocessors);
  read(cudaDevAttrClockRate, &clock_khz);
  read(cudaDevAttrMemoryClockRate, &memory_khz);
  read(cudaDevAttrGlobalMemoryBusWidth, &bus_bits);
  cudaDeviceProp properties;
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, index);
  if (error == cudaSuccess) error = cudaMemGetInfo(&gpu.free_bytes, &gpu.memory_bytes);
  if (error == cudaSuccess) error = cudaDriverGetVersion(&gpu.driver);
  if (error == cudaSuccess) error = cudaRuntimeGetVersion(&gpu.runtime);
  if (error != cudaSuccess) return CudaStatus(error, fmt::format("device {}", index));
  gpu.name = properties.name;
  gpu.clock_hz = 1e3 * clock_khz;
  // Two transfers a clock.
  gpu.memory_bytes_s = 2e3 * memory_khz * bus_bits / 8;
  return gpu;
}

// Bytes a second; 0 after an error.
double CopiesPerSecond(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                       double seconds, cudaStream_t stream, cudaError_t* error) {
  const auto copy = [&](int times) {
    for (int i = 0; i < times && *error == cudaSuccess; ++i) {
      *error = cudaMemcpyAsync(to, from, bytes, kind, stream);
    }
    if (*error == cudaSuccess) *error = cudaStreamSynchronize(stream);
  };
  copy(1);
  int copies = 0;
  double elapsed = 0;
  const Clock::time_point start = Clock::now();
  while (*error == cudaSuccess && elapsed < seconds) {
    constexpr int kBetweenWaits = 4;
    copy(kBetweenWaits);
    copies += kBetweenWaits;
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return elapsed > 0 ? static_cast<double>(bytes) * copies / elapsed : 0;
}

}  // namespace

absl::StatusOr<std::vector<Gpu>> ListGpus() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    const std::string why = error != cudaSuccess ? cudaGetErrorString(error) : "it sees no device";
    cudaGetLastError();  // so that it is not taken for a later call's
    return absl::NotFoundError(fmt::format("no usable GPU: CUDA: {}", why));
  }
  std::vector<Gpu> gpus;
  for (int i = 0; i < devices; ++i) {
    HOSTLER_ASSIGN_OR_RETURN(gpus.emplace_back(), DescribeGpu(i));
  }
  return gpus;
}

absl::StatusOr<GpuSpeed> MeasureGpu(int index, uint64_t copied_bytes, double seconds) {
  if (const cudaError_t error = cudaSetDevice(index); error != cudaSuccess) {
    return absl::NotFoundError(std::string(CudaStatus(error, "the device").message()));
  }
  HOSTLER_ASSIGN_OR_RETURN(const StreamPtr stream, NewStream(/*priority=*/0));
  HOSTLER_ASSIGN_OR_RETURN(const DevicePtr one, NewDeviceMemory(copied_bytes));
  HOSTLER_ASSIGN_OR_RETURN(const DevicePtr other, NewDeviceMemory(copied_bytes));
  HOSTLER_ASSIGN_OR_RETURN(const PinnedPtr host, NewPinnedMemory(copied_bytes));
  std::fill_n(host.get(), copied_bytes, std::byte{1});
  cudaError_t error = cudaSuccess;
  const auto speed = [&](void* to, const void* from, cudaMemcpyKind kind) {
    return CopiesPerSecond(to, from, copied_bytes, kind, seconds, stream.get(), &error);
  };
  GpuSpeed speeds;
  speeds.to_device_bytes_s = speed(one.get(), host.get(), cudaMemcpyHostToDevice);
  speeds.to_host_bytes_s = speed(host.get(), one.get(), cudaMemcpyDeviceToHost);
  speeds.memory_bytes_s = 2 * speed(other.get(), one.get(), cudaMemcpyDeviceToDevice);
  cudaStreamSynchronize(stream.get());  // what is freed now may yet be copied
  if (error != cudaSuccess) return CudaStatus(error, "copying to measure");
  return speeds;
}

}  // namespace hostler
