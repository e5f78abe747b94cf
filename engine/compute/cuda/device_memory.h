// Owners of what the CUDA runtime hands out.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hostler {

// Internal, or ResourceExhausted for memory, naming what failed.
absl::Status CudaStatus(cudaError_t error, std::string_view what);

struct StreamDeleter {
  void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
struct EventDeleter {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
struct DeviceDeleter {
  void operator()(std::byte* memory) const { cudaFree(memory); }
};
struct PinnedDeleter {
  void operator()(std::byte* memory) const { cudaFreeHost(memory); }
};
using StreamPtr = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDeleter>;
using EventPtr = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, EventDeleter>;
using DevicePtr = std::unique_ptr<std::byte, DeviceDeleter>;  // 256-byte aligned
using PinnedPtr = std::unique_ptr<std::byte, PinnedDeleter>;  // 4 KiB-aligned

// Higher priorities go first where there is a choice; 0 is the lowest.
absl::StatusOr<StreamPtr> NewStream(int priority);
absl::StatusOr<EventPtr> NewEvent();
absl::StatusOr<DevicePtr> NewDeviceMemory(size_t bytes);
absl::StatusOr<PinnedPtr> NewPinnedMemory(size_t bytes);

// Memory that grows to the largest size asked for.
template <typename Pointer>
struct Growing {
  Pointer memory;
  size_t bytes = 0;

  // Null when it cannot be had.
  std::byte* Reserve(size_t wanted, absl::StatusOr<Pointer> (*allocate)(size_t)) {
    if (bytes >= wanted) return memory.get();
    memory.reset();
    bytes = 0;
    absl::StatusOr<Pointer> made = allocate(wanted);
    if (!made.ok()) return nullptr;
    memory = *std::move(made);
    bytes = wanted;
    return memory.get();
  }
};

// Before the host reads or writes pinned memory that copies use: the emulation checks
// that they have ended. Nothing elsewhere.
void CheckHostRead(const void* data, size_t bytes);
void CheckHostWrite(const void* data, size_t bytes);

}  // namespace hostler
