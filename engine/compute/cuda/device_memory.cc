#include "engine/compute/cuda/device_memory.h"

#include <algorithm>

#include "engine/base/bytes.h"
#include "fmt/format.h"
#if defined(HOSTLER_CUDA_EMULATED)
#include "engine/compute/cuda/emulation/emulation.h"
#endif

namespace hostler {

absl::Status CudaStatus(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text = fmt::format("CUDA: {}: {}", what, cudaGetErrorString(error));
  cudaGetLastError();  // so that it is not taken for a later call's
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(text)
                                            : absl::InternalError(text);
}

absl::StatusOr<StreamPtr> NewStream(int priority) {
  int least = 0, greatest = 0;
  if (const cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
      error != cudaSuccess) {
    return CudaStatus(error, "stream priorities");
  }
  cudaStream_t stream = nullptr;
  const cudaError_t error = cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                                         std::max(least - priority, greatest));
  if (error != cudaSuccess) return CudaStatus(error, "a stream");
  return StreamPtr(stream);
}

absl::StatusOr<EventPtr> NewEvent() {
  cudaEvent_t event = nullptr;
  const cudaError_t error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  if (error != cudaSuccess) return CudaStatus(error, "an event");
  return EventPtr(event);
}

absl::StatusOr<DevicePtr> NewDeviceMemory(size_t bytes) {
  // Kernels load 16 bytes of which they may need one.
  constexpr size_t kLoad = 16;
  void* memory = nullptr;
  const cudaError_t error =
      cudaMalloc(&memory, std::max<size_t>((bytes + kLoad - 1) / kLoad * kLoad, kLoad));
  if (error != cudaSuccess) {
    return CudaStatus(error, fmt::format("cannot allocate {} on the device", FormatBytes(bytes)));
  }
  return DevicePtr(static_cast<std::byte*>(memory));
}

absl::StatusOr<PinnedPtr> NewPinnedMemory(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMallocHost(&memory, std::max<size_t>(bytes, 1));
  if (error != cudaSuccess) {
    return CudaStatus(error, fmt::format("cannot pin {} of memory", FormatBytes(bytes)));
  }
  return PinnedPtr(static_cast<std::byte*>(memory));
}

#if defined(HOSTLER_CUDA_EMULATED)
void CheckHostRead(const void* data, size_t bytes) {
  cuda_emulation::HostAccess(data, bytes, false);
}
void CheckHostWrite(const void* data, size_t bytes) {
  cuda_emulation::HostAccess(data, bytes, true);
}
#else
void CheckHostRead(const void*, size_t) {}
void CheckHostWrite(const void*, size_t) {}
#endif

}  // namespace hostler
