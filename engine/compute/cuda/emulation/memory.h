// The emulated device's memory, and pinned memory of the host.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

#include "engine/compute/cuda/emulation/emulation.h"

namespace hostler::cuda_emulation {

inline constexpr size_t kDeviceBytes = size_t{16} << 30;

// Thread-safe.
class Memory {
 public:
  Memory();

  // Null when there is no room. 256-byte aligned; what was freed is inaccessible.
  void* AllocateDevice(size_t bytes);
  void* AllocatePinned(size_t bytes);
  // Bytes that were at `memory`; 0 when it is not the beginning of an allocation.
  size_t FreeDevice(void* memory);
  size_t FreePinned(void* memory);

  // Whether the range lies within one allocation.
  bool IsDevice(const void* data, size_t bytes) const;
  bool IsPinned(const void* data, size_t bytes) const;
  size_t device_bytes_free() const;

  // Makes zeros of a range of device memory without touching it, as far as it has
  // whole pages. REQUIRES: IsDevice
  void Zero(void* data, size_t bytes);

  // While guarded, device memory is accessible between Enter and Leave only.
  void Guard(bool guard);
  void Enter();
  void Leave();

 private:
  using Blocks = std::map<std::byte*, size_t>;  // begin → bytes

  static bool Holds(const Blocks& blocks, const void* data, size_t bytes);
  static void Protect(std::byte* data, size_t bytes, bool accessible);
  void ProtectAll(bool accessible);

  mutable std::mutex mutex_;
  std::byte* base_ = nullptr;
  size_t used_ = 0;
  Blocks device_, pinned_;
  bool guarded_ = false;
  int busy_ = 0;
};

}  // namespace hostler::cuda_emulation
