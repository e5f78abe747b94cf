// What a CUDA backend shares with its tiers: when slots were last computed with.
#pragma once

#include <mutex>

#include "engine/compute/cuda/device_memory.h"

namespace hostler {

// Thread-safe.
class SlotUse {
 public:
  explicit SlotUse(EventPtr event) : event_(std::move(event)) {}

  // Everything queued on the stream so far may use slots.
  cudaError_t Record(cudaStream_t stream) {
    std::lock_guard lock(mutex_);
    return cudaEventRecord(event_.get(), stream);
  }
  // What is queued on the stream from now on waits for the last of it.
  cudaError_t MakeWait(cudaStream_t stream) {
    std::lock_guard lock(mutex_);
    return cudaStreamWaitEvent(stream, event_.get(), 0);
  }

 private:
  std::mutex mutex_;
  EventPtr event_;
};

}  // namespace hostler
