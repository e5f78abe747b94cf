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
class Parameters {
 public:
  explicit Parameters(Launcher* launcher) : launcher_(*launcher) {}

  // For kernels that are queued before Put has been given kSegmentBytes more.
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

  DeviceBatch Batch(const StepBatch& batch);

 private:
  static constexpr size_t kSegmentBytes = size_t{1} << 20;
  static constexpr int kSegments = 4;
  static constexpr size_t kMostKept = 4096;

  // What was put is used up in order: a segment is filled again when the kernels that
  // were queued while it was filled have ended.
  struct Segment {
    PinnedPtr host;
    DevicePtr device;
    EventPtr used;
    size_t bytes = 0, taken = 0;
  };
  struct Kept {
    std::vector<std::byte> values;
    DevicePtr device;
  };

  bool Begin(Segment& segment, size_t bytes);
  // The next of some segments, which are filled in turn. Null after an error.
  Segment* Advance(std::span<Segment> segments, int* filling, size_t bytes);
  const std::byte* Copy(Segment& segment, const void* values, size_t bytes);
  const std::byte* PutBytes(const void* values, size_t bytes);
  const std::byte* KeepBytes(const void* key, const void* values, size_t bytes);

  Launcher& launcher_;
  Segment segments_[kSegments];
  int filling_ = 0;
  std::map<const void*, Kept> kept_;
  // The step's batch, which every layer asks for, and the one before.
  Segment batches_[2];
  int filling_batch_ = 0;
  std::vector<std::byte> packed_, sent_;
  const std::byte* batch_ = nullptr;
};

}  // namespace hostler
