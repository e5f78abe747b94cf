#include "engine/compute/cuda/hbm_tier.h"

#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/compute/cuda/device_memory.h"

namespace hostler {
namespace {

class HbmTier : public Tier {
 public:
  HbmTier(std::vector<size_t> strides, int device, std::shared_ptr<SlotUse> use, StreamPtr copies)
      : strides_(std::move(strides)),
        slots_(strides_.size()),
        device_(device),
        use_(std::move(use)),
        copies_(std::move(copies)) {}

  std::span<std::byte> slot(int index) override {
    return {slots_[index].get(), slots_[index] == nullptr ? 0 : strides_[index]};
  }
  bool on_host() const override { return false; }
  bool locked() const override { return true; }
  void Discard(int index) override { slots_[index].reset(); }

  absl::Status Fill(int index, std::span<const std::byte> bytes) override {
    if (const cudaError_t error = cudaSetDevice(device_); error != cudaSuccess) {
      return CudaStatus(error, "the device");
    }
    if (slots_[index] == nullptr) {
      HOSTLER_ASSIGN_OR_RETURN(slots_[index], NewDeviceMemory(strides_[index]));
    }
    HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Passage> passage, TakePassage(strides_[index]));
    CheckHostWrite(passage->pinned.get(), bytes.size());
    std::memcpy(passage->pinned.get(), bytes.data(), bytes.size());
    const cudaError_t error = Copy(slots_[index].get(), *passage, bytes.size());
    if (error != cudaSuccess) {
      cudaStreamSynchronize(copies_.get());  // it may yet read what is freed now
      return CudaStatus(error, "copying an expert to the device");
    }
    std::lock_guard lock(mutex_);
    free_.push_back(std::move(passage));
    return absl::OkStatus();
  }

 private:
  // What one Fill at a time goes through.
  struct Passage {
    PinnedPtr pinned;
    size_t bytes = 0;
    EventPtr copied;
  };

  absl::StatusOr<std::unique_ptr<Passage>> TakePassage(size_t bytes) {
    std::unique_ptr<Passage> passage;
    {
      std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        passage = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (passage == nullptr) {
      passage = std::make_unique<Passage>();
      HOSTLER_ASSIGN_OR_RETURN(passage->copied, NewEvent());
    }
    if (passage->bytes < bytes) {
      HOSTLER_ASSIGN_OR_RETURN(passage->pinned, NewPinnedMemory(bytes));
      passage->bytes = bytes;
    }
    return passage;
  }

  cudaError_t Copy(std::byte* slot, const Passage& passage, size_t bytes) {
    cudaError_t error = use_->MakeWait(copies_.get());
    if (error == cudaSuccess) {
      error =
          cudaMemcpyAsync(slot, passage.pinned.get(), bytes, cudaMemcpyHostToDevice, copies_.get());
    }
    if (error == cudaSuccess) error = cudaEventRecord(passage.copied.get(), copies_.get());
    if (error == cudaSuccess) error = cudaEventSynchronize(passage.copied.get());
    return error;
  }

  const std::vector<size_t> strides_;  // [slots]
  std::vector<DevicePtr> slots_;
  const int device_;
  const std::shared_ptr<SlotUse> use_;
  const StreamPtr copies_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Passage>> free_;  // as many as fills there were at once
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tier>> NewHbmTier(std::span<const SlotClass> classes, int device,
                                                 std::shared_ptr<SlotUse> use) {
  std::vector<size_t> strides;
  for (const SlotClass& slots : classes) {
    strides.insert(strides.end(), slots.count, SlotStride(slots.bytes));
  }
  HOSTLER_ASSIGN_OR_RETURN(StreamPtr copies, NewStream(/*priority=*/1));
  return std::make_unique<HbmTier>(std::move(strides), device, std::move(use), std::move(copies));
}

}  // namespace hostler
