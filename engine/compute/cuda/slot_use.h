// What a CUDA backend shares with its tiers: when slots were last computed with.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/base/status.h"
#include "engine/compute/cuda/device_memory.h"

namespace hostler {

// Slots are named by where they begin. Thread-safe.
class SlotUse {
 public:
  static absl::StatusOr<std::shared_ptr<SlotUse>> Create() {
    auto use = std::make_shared<SlotUse>();
    for (EventPtr& event : use->events_) {
      HOSTLER_ASSIGN_OR_RETURN(event, NewEvent());
    }
    return use;
  }

  // What is queued on the stream so far uses the slots.
  cudaError_t Record(cudaStream_t stream, std::span<const std::byte* const> slots) {
    std::lock_guard lock(mutex_);
    ++last_;
    for (const std::byte* slot : slots) used_[slot] = last_;
    return cudaEventRecord(events_[last_ % events_.size()].get(), stream);
  }
  // What is queued on the stream from now on waits for what used the slot.
  cudaError_t MakeWait(cudaStream_t stream, const std::byte* slot) {
    std::lock_guard lock(mutex_);
    const auto found = used_.find(slot);
    if (found == used_.end()) return cudaSuccess;
    // An event that was recorded again since then is of later work of the same stream.
    return cudaStreamWaitEvent(stream, events_[found->second % events_.size()].get(), 0);
  }

 private:
  std::mutex mutex_;
  std::array<EventPtr, 16> events_;
  uint64_t last_ = 0;
  std::unordered_map<const std::byte*, uint64_t> used_;  // as many as there were slots
};

}  // namespace hostler
