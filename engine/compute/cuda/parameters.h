// Brings what operations are given on the host to the device: indices, factors, a
// step's batch, an operation's constants.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "engine/compute/cuda/device_memory.h"
#include "engine/compute/cuda/kernels.h"
#include "engine/compute/cuda/launch.h"
#include "engine/compute/step_batch.h"

namespace hostler {

// One thread. Errors go to the launcher; pointers are null then.
//
// What one run of kernels is given travels in one copy. Where it lies depends only on
// how much was put since the host last waited for the device, roughly, so that a step
// like the one before has its parameters at the same places, and can be a graph.
class Parameters {
 public:
  explicit Parameters(Launcher* launcher) : launcher_(*launcher) {}

  // For kernels that are launched before the host waits for the device, or Put has been
  // given kBytes more.
  template <typename T>
  const T* Put(std::span<const T> values) {
    return reinterpret_cast<const T*>(PutBytes(values.data(), values.size_bytes()));
  }

  // For as long as values at the same place are asked for again: copied once, and again
  // if they have changed.
  template <typename T>
  const T* Keep(const std::vector<T>& values) {
    if (values.empty()) return nullptr;
    return reinterpret_cast<const T*>(
        KeepBytes(values.data(), values.data(), values.size() * sizeof(T)));
  }

  // For kernels that are launched before the next Batch.
  DeviceBatch Batch(const StepBatch& batch);

 private:
  static constexpr size_t kBytes = size_t{2} << 20;
  static constexpr size_t kMostKept = 4096;

  // Pinned memory and its copy on the device.
  struct Area {
    PinnedPtr host;
    DevicePtr device;
    size_t bytes = 0;
  };
  struct Kept {
    std::vector<std::byte> values;
    DevicePtr device;
  };

  // Makes it at least so large. What it held is gone.
  bool Reserve(Area& area, size_t bytes);
  const std::byte* Upload(Area& area, size_t at, const void* values, size_t bytes);
  const std::byte* PutBytes(const void* values, size_t bytes);
  const std::byte* KeepBytes(const void* key, const void* values, size_t bytes);
  // Fills packed_ and all of `result` but the pointers; where the parts begin.
  struct Parts {
    size_t rows, positions, blocks;
  };
  Parts Pack(const StepBatch& batch, DeviceBatch* result);

  Launcher& launcher_;
  // What was put: the one side is filled while what the other has may be in use.
  Area put_[2];
  int side_ = 0;
  size_t taken_ = 0;                                     // of put_[side_]
  uint64_t put_used_[2] = {~uint64_t{0}, ~uint64_t{0}};  // the launcher's synchronizations
  uint64_t put_flush_ = 0;  // the launcher's flushes and synchronizations when something
  uint64_t put_wait_ = 0;   // was put last
  std::map<const void*, Kept> kept_;

  // The step's batch, which every layer asks for.
  Area batch_;
  std::vector<std::byte> packed_, sent_;
  bool has_batch_ = false;
  uint64_t batch_wait_ = 0;  // synchronizations and errors when it was sent,
  uint64_t batch_errors_ = 0;
  uint64_t batch_flush_ = 0;  // and flushes when it was last asked for
};

}  // namespace hostler
