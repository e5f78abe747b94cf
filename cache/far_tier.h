// For tests: a tier that is not on the host, whose copies a test can hold up and let fail.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cache/tier.h"

namespace hostler {

class CopyControl {
 public:
  CopyControl() { order_.reserve(1000); }

  void Hold(bool hold) {
    std::lock_guard lock(mutex_);
    held_ = hold;
    changed_.notify_all();
  }
  void FailNext(int copies) {
    std::lock_guard lock(mutex_);
    failing_ = copies;
  }
  // Copies begun so far.
  int copies() const {
    std::lock_guard lock(mutex_);
    return static_cast<int>(order_.size());
  }
  void WaitForCopies(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return order_.size() >= size_t(count); });
  }
  // Until so many that are held have become demanded.
  void WaitForDemands(int count) {
    std::unique_lock lock(mutex_);
    while (std::count_if(waiting_.begin(), waiting_.end(), [](const std::atomic<bool>* demanded) {
             return demanded->load();
           }) < count) {
      changed_.wait_for(lock, std::chrono::milliseconds(1));
    }
  }

  TierFactory Factory() {
    return [this](std::span<const SlotClass> classes) -> absl::StatusOr<std::unique_ptr<Tier>> {
      auto memory = NewDramTier(classes);
      if (!memory.ok()) return std::move(memory).status();
      return std::make_unique<FarTier>(this, *std::move(memory));
    };
  }

 private:
  class FarTier : public Tier {
   public:
    FarTier(CopyControl* control, std::unique_ptr<Tier> memory)
        : control_(*control), memory_(std::move(memory)) {}
    std::span<std::byte> slot(int index) override { return memory_->slot(index); }
    bool on_host() const override { return false; }
    bool locked() const override { return true; }
    void Discard(int index) override { memory_->Discard(index); }
    absl::Status Fill(int index, std::span<const std::byte> bytes,
                      const std::atomic<bool>& demanded) override {
      absl::Status status = control_.Begin(&demanded);
      return status.ok() ? memory_->Fill(index, bytes, demanded) : status;
    }

   private:
    CopyControl& control_;
    const std::unique_ptr<Tier> memory_;
  };

  absl::Status Begin(const std::atomic<bool>* demanded) {
    std::unique_lock lock(mutex_);
    order_.push_back(*demanded);
    waiting_.push_back(demanded);
    changed_.notify_all();
    changed_.wait(lock, [this] { return !held_; });
    std::erase(waiting_, demanded);
    if (failing_ == 0) return absl::OkStatus();
    --failing_;
    return absl::InternalError("the copy failed");
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  int failing_ = 0;
  std::vector<bool> order_;
  std::vector<const std::atomic<bool>*> waiting_;
};

}  // namespace hostler
