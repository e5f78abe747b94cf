// A mutex that is had in the order of asking.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>

namespace hostler {

// For work of milliseconds: std::mutex lets whoever runs at the moment go first, and
// with many threads some wait several times as long as others. Meets BasicLockable.
class FifoMutex {
 public:
  void lock() {
    std::unique_lock lock(mutex_);
    if (!held_) {
      held_ = true;
      return;
    }
    Waiter self;
    waiters_.push_back(&self);
    self.turn.wait(lock, [&] { return self.granted; });
  }

  void unlock() {
    std::lock_guard lock(mutex_);
    if (waiters_.empty()) {
      held_ = false;
      return;
    }
    Waiter* next = waiters_.front();
    waiters_.pop_front();
    next->granted = true;
    next->turn.notify_one();
  }

 private:
  struct Waiter {
    std::condition_variable turn;
    bool granted = false;
  };

  std::mutex mutex_;
  bool held_ = false;
  std::deque<Waiter*> waiters_;
};

}  // namespace hostler
