// Launches kernels: the one place where that is done.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine/compute/graph_counts.h"

namespace hostler {

class RunGraphs;

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

// How a kernel takes its parameters, and how they lie when they are packed.
struct KernelType {
  std::span<const uint32_t> offsets;
  // Calls it as a thread of the emulation.
  void (*call)(const void* kernel, const std::byte* parameters) = nullptr;
};

// A launch as it is packed; `bytes` of parameters follow. No padding.
struct PackedLaunch {
  static constexpr size_t kAlignment = 16;

  const void* kernel = nullptr;
  const KernelType* type = nullptr;
  uint32_t grid[3] = {}, block[3] = {};
  uint32_t shared_bytes = 0;
  uint32_t independent = 0;
  uint32_t bytes = 0;  // a multiple of kAlignment
  uint32_t unused[3] = {};

  const std::byte* parameters() const { return reinterpret_cast<const std::byte*>(this + 1); }
};
static_assert(std::has_unique_object_representations_v<PackedLaunch> &&
              sizeof(PackedLaunch) % PackedLaunch::kAlignment == 0);

// Queues kernels on a stream. After an error nothing more is queued, until it is taken.
// One thread.
class Launcher {
 public:
  cudaStream_t stream = nullptr;

  Launcher();
  ~Launcher();

  bool ok() const { return error_ == cudaSuccess; }
  // Also drops what was not queued.
  cudaError_t TakeError();
  // How many were taken: what was uploaded before one may never have come.
  uint64_t errors() const { return errors_; }
  // Returns whether all is well.
  bool Check(cudaError_t error) {
    if (ok()) error_ = error;
    return ok();
  }

  // From now on kernels are gathered into runs, which Flush queues; a run that comes
  // again, with the same parameters to the last bit, is queued as a graph.
  void Gather();
  // Queues what was gathered. Before anything else is queued on the stream, and before
  // memory is freed that it may use.
  void Flush();
  // Flushes and waits for the stream, after an error too: what was queued before may
  // use what is freed next.
  void Synchronize();
  // How often there was either: what was used before a Synchronize is used no more.
  uint64_t flushes() const { return flushes_; }
  uint64_t synchronizations() const { return synchronizations_; }
  GraphCounts graph_counts() const;

  // Copies from pinned memory before the run at hand. What is written is not used by
  // kernels already in it; what is read stays until the next Synchronize.
  void Upload(std::byte* to, const std::byte* from, size_t bytes);

  template <typename... P, typename... A>
  void Run(const Shape& shape, const Uses& uses, void (*kernel)(P...), const A&... arguments) {
    static_assert((std::is_trivially_copyable_v<P> && ...));
    static_assert(((alignof(P) <= PackedLaunch::kAlignment) && ...));
    if (!ok() || shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
    [[maybe_unused]] std::byte* parameters =
        Add(shape, uses, reinterpret_cast<const void*>(kernel), &Packing<P...>::kType,
            Packing<P...>::kOffsets.back());
    [[maybe_unused]] const uint32_t* offset = Packing<P...>::kOffsets.data();
    (Put<P>(parameters + *offset++, arguments), ...);
    if (graphs_ == nullptr || run_.size() >= kMostRunBytes) Flush();
  }

 private:
  static constexpr size_t kMostRunBytes = size_t{1} << 20;

  template <typename... P>
  struct Packing {
    // And where the last one ends.
    static constexpr std::array<uint32_t, sizeof...(P) + 1> kOffsets = [] {
      constexpr uint32_t kSizes[] = {sizeof(P)..., 0}, kAlignments[] = {alignof(P)..., 1};
      std::array<uint32_t, sizeof...(P) + 1> offsets = {};
      uint32_t end = 0;
      for (size_t i = 0; i < offsets.size(); ++i) {
        offsets[i] = (end + kAlignments[i] - 1) / kAlignments[i] * kAlignments[i];
        end = offsets[i] + kSizes[i];
      }
      return offsets;
    }();
    static void Call(const void* kernel, const std::byte* parameters) {
      [&]<size_t... I>(std::index_sequence<I...>) {
        (void)parameters;
        reinterpret_cast<void (*)(P...)>(const_cast<void*>(kernel))(
            *reinterpret_cast<const P*>(parameters + kOffsets[I])...);
      }
      (std::index_sequence_for<P...>());
    }
#if defined(HOSTLER_CUDA_EMULATED)
    static constexpr KernelType kType = {{kOffsets.data(), sizeof...(P)}, &Call};
#else
    static constexpr KernelType kType = {{kOffsets.data(), sizeof...(P)}, nullptr};
#endif
  };

  // With zeros where it has no bits of a value, so that equal ones are equal bytes.
  template <typename P>
  static void Put(std::byte* to, const P& value) {
    P copy = value;
    __builtin_clear_padding(&copy);
    std::memcpy(to, &copy, sizeof copy);
  }

  // Room for the parameters, zeros.
  std::byte* Add(const Shape& shape, const Uses& uses, const void* kernel, const KernelType* type,
                 size_t parameter_bytes);
  void SendUploads();
  cudaError_t QueueRun();

  struct Copy {
    std::byte* to;
    const std::byte* from;
    size_t bytes;
  };
  struct RangeCounts {
    size_t reads, writes;
  };

  cudaError_t error_ = cudaSuccess;
  uint64_t errors_ = 0;
  std::vector<Copy> uploads_;
  std::vector<std::byte> run_;       // PackedLaunch after PackedLaunch
  size_t launches_ = 0;              // in run_
  std::vector<DeviceRange> ranges_;  // the emulation's: of each launch, reads then writes
  std::vector<RangeCounts> range_counts_;
  uint64_t flushes_ = 0, synchronizations_ = 0;
  std::unique_ptr<RunGraphs> graphs_;  // null: nothing is gathered
};

}  // namespace hostler
