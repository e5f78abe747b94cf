// ReadyList: how engines' threads wake a front end's thread, once for all of its
// answers that have news.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace hostler {

// `T` has OnNews(), which is called on the front end's thread. Thread-safe.
template <typename T>
class ReadyList {
 public:
  // `post` has Run() called soon, once, by the one thread that calls it.
  explicit ReadyList(std::function<void()> post) : post_(std::move(post)) {}

  // An engine's thread waits for nothing here but another's Add().
  void Add(const std::weak_ptr<T>& item) {
    {
      std::lock_guard lock(mutex_);
      added_.push_back(item);
      if (std::exchange(posted_, true)) return;
    }
    post_();
  }

  void Run() {
    {
      std::lock_guard lock(mutex_);
      std::swap(added_, running_);
      posted_ = false;
    }
    for (const std::weak_ptr<T>& item : running_) {
      if (const std::shared_ptr<T> there = item.lock()) there->OnNews();
    }
    running_.clear();
  }

 private:
  const std::function<void()> post_;
  std::vector<std::weak_ptr<T>> running_;  // Run()'s thread's
  std::mutex mutex_;                       // guards all below
  std::vector<std::weak_ptr<T>> added_;
  bool posted_ = false;
};

}  // namespace hostler
