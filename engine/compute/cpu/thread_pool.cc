#include "engine/compute/cpu/thread_pool.h"

#include <algorithm>
#include <system_error>

namespace hostler {

ThreadPool::ThreadPool(int threads) {
  workers_.reserve(static_cast<size_t>(std::max(threads - 1, 0)));
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { Work(i); });
  } catch (const std::system_error&) {
    // Fewer threads give the same results.
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(int64_t chunks, LoopBody body) {
  if (workers_.empty() || chunks <= 1) {
    for (int64_t i = 0; i < chunks; ++i) body(i, 0);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    body_ = &body;
    chunks_ = chunks;
    next_.store(0, std::memory_order_relaxed);
    open_ = true;
    ++loop_;
  }
  if (chunks > static_cast<int64_t>(workers_.size())) {
    wake_.notify_all();
  } else {
    for (int64_t i = 1; i < chunks; ++i) wake_.notify_one();
  }
  TakeChunks(0);
  // A worker that did not wake in time finds the loop closed and is not waited for.
  std::unique_lock lock(mutex_);
  open_ = false;
  idle_.wait(lock, [this] { return inside_ == 0; });
}

void ThreadPool::Work(int thread) {
  uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return stop_ || (open_ && loop_ != seen); });
    if (stop_) return;
    seen = loop_;
    ++inside_;
    lock.unlock();
    TakeChunks(thread);
    lock.lock();
    if (--inside_ == 0) idle_.notify_one();
  }
}

void ThreadPool::TakeChunks(int thread) {
  for (;;) {
    const int64_t chunk = next_.fetch_add(1, std::memory_order_relaxed);
    if (chunk >= chunks_) return;
    (*body_)(chunk, thread);
  }
}

}  // namespace hostler
