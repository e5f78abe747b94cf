#include "engine/compute/cuda/hbm_tier.h"

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/compute/cuda/device_memory.h"
#include "engine/compute/cuda/slot_memory.h"

namespace hostler {
namespace {

// Of a copy that nobody waits for, at once: some tens of microseconds of a link.
constexpr size_t kPieceBytes = size_t{1} << 20;

absl::Status EnterDevice(int device) { return CudaStatus(cudaSetDevice(device), "the device"); }

// Lets copies that someone waits for go first.
class CopyOrder {
 public:
  void BeginDemanded() {
    std::lock_guard lock(mutex_);
    ++demanded_;
  }
  void EndDemanded() {
    std::lock_guard lock(mutex_);
    if (--demanded_ == 0) idle_.notify_all();
  }
  // Returns when no copy is demanded, or this one is.
  void Wait(const std::atomic<bool>& demanded) {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return demanded_ == 0 || demanded; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable idle_;
  int demanded_ = 0;
};

class HbmTier : public Tier {
 public:
  HbmTier(std::span<const SlotClass> classes, int device, std::shared_ptr<SlotUse> use,
          StreamPtr demanded, StreamPtr others)
      : memory_(classes),
        device_(device),
        use_(std::move(use)),
        demanded_(std::move(demanded)),
        others_(std::move(others)) {}

  std::span<std::byte> slot(int index) override { return memory_.Find(index); }
  bool on_host() const override { return false; }
  bool locked() const override { return true; }
  void Discard(int index) override { memory_.Discard(index); }
  absl::Status Reserve(uint64_t bytes) override {
    HOSTLER_RETURN_IF_ERROR(EnterDevice(device_));
    return memory_.Reserve(bytes);
  }

  absl::Status Fill(int index, std::span<const std::byte> bytes,
                    const std::atomic<bool>& demanded) override {
    HOSTLER_RETURN_IF_ERROR(EnterDevice(device_));
    HOSTLER_ASSIGN_OR_RETURN(const std::span<std::byte> slot, memory_.Take(index));
    HOSTLER_ASSIGN_OR_RETURN(EventPtr copied, TakeEvent());
    size_t done = 0;
    cudaError_t error = cudaSuccess;
    while (done < bytes.size() && error == cudaSuccess && !demanded) {
      order_.Wait(demanded);
      if (demanded) break;
      const size_t count = std::min(bytes.size() - done, kPieceBytes);
      error = Copy(others_.get(), slot, done, bytes.subspan(done, count), copied.get());
      done += count;
    }
    if (done < bytes.size() && error == cudaSuccess) {
      order_.BeginDemanded();
      error = Copy(demanded_.get(), slot, done, bytes.subspan(done), copied.get());
      order_.EndDemanded();
    }
    if (error != cudaSuccess) return CudaStatus(error, "copying an expert to the device");
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(copied));
    return absl::OkStatus();
  }

 private:
  // To `offset` within the slot; waits for it.
  cudaError_t Copy(cudaStream_t stream, std::span<std::byte> slot, size_t offset,
                   std::span<const std::byte> bytes, cudaEvent_t copied) {
    cudaError_t error = use_->MakeWait(stream, slot.data());
    if (error == cudaSuccess) {
      error = cudaMemcpyAsync(slot.data() + offset, bytes.data(), bytes.size(),
                              cudaMemcpyHostToDevice, stream);
    }
    if (error == cudaSuccess) error = cudaEventRecord(copied, stream);
    if (error == cudaSuccess) error = cudaEventSynchronize(copied);
    // After an error it may yet read what its owner fills next.
    if (error != cudaSuccess) cudaStreamSynchronize(stream);
    return error;
  }

  absl::StatusOr<EventPtr> TakeEvent() {
    {
      std::lock_guard lock(mutex_);
      if (!events_.empty()) {
        EventPtr event = std::move(events_.back());
        events_.pop_back();
        return event;
      }
    }
    return NewEvent();
  }

  SlotMemory<DevicePtr, NewDeviceMemory> memory_;
  const int device_;
  const std::shared_ptr<SlotUse> use_;
  const StreamPtr demanded_, others_;
  CopyOrder order_;
  std::mutex mutex_;
  std::vector<EventPtr> events_;  // as many as fills there were at once
};

class PinnedTier : public Tier {
 public:
  PinnedTier(std::span<const SlotClass> classes, int device) : memory_(classes), device_(device) {}

  std::span<std::byte> slot(int index) override {
    if (const std::span<std::byte> slot = memory_.Find(index); !slot.empty()) return slot;
    if (!EnterDevice(device_).ok()) return {};
    const absl::StatusOr<std::span<std::byte>> slot = memory_.Take(index);
    return slot.ok() ? *slot : std::span<std::byte>();
  }
  bool on_host() const override { return true; }
  bool locked() const override { return true; }
  void Discard(int index) override { memory_.Discard(index); }
  absl::Status Reserve(uint64_t bytes) override {
    HOSTLER_RETURN_IF_ERROR(EnterDevice(device_));
    return memory_.Reserve(bytes);
  }
  absl::Status Fill(int index, std::span<const std::byte> bytes,
                    const std::atomic<bool>&) override {
    const std::span<std::byte> to = slot(index);
    if (to.empty()) return absl::ResourceExhaustedError("cannot pin memory for an expert");
    std::copy(bytes.begin(), bytes.end(), to.begin());
    return absl::OkStatus();
  }

 private:
  SlotMemory<PinnedPtr, NewPinnedMemory> memory_;
  const int device_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tier>> NewHbmTier(std::span<const SlotClass> classes, int device,
                                                 std::shared_ptr<SlotUse> use) {
  HOSTLER_RETURN_IF_ERROR(EnterDevice(device));
  HOSTLER_ASSIGN_OR_RETURN(StreamPtr demanded, NewStream(/*priority=*/2));
  HOSTLER_ASSIGN_OR_RETURN(StreamPtr others, NewStream(/*priority=*/1));
  return std::make_unique<HbmTier>(classes, device, std::move(use), std::move(demanded),
                                   std::move(others));
}

std::unique_ptr<Tier> NewPinnedTier(std::span<const SlotClass> classes, int device) {
  return std::make_unique<PinnedTier>(classes, device);
}

}  // namespace hostler
