#include "engine/compute/cpu/thread_pool.h"

#include <algorithm>
#include <system_error>

#include "engine/base/cores.h"

namespace hostler {

namespace {

// Some 50 microseconds.
constexpr int kSpins = 1000;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// The first of the chunks that are left, or the last; -1 if there is none.
int64_t TakeChunk(std::atomic<uint64_t>& left, bool first) {
  uint64_t seen = left.load(std::memory_order_relaxed);
  for (;;) {
    const uint64_t begin = seen >> 32, end = seen & UINT32_MAX;
    if (begin >= end) return -1;
    const uint64_t after = first ? seen + (uint64_t{1} << 32) : seen - 1;
    if (left.compare_exchange_weak(seen, after, std::memory_order_relaxed)) {
      return static_cast<int64_t>(first ? begin : end - 1);
    }
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads)
    : spins_(threads <= UsableCores()), runs_(static_cast<size_t>(std::max(threads, 1))) {
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
  {
    std::lock_guard lock(mutex_);
    open_ = false;
  }
  if (Spin([this] { return inside_.load(std::memory_order_acquire) == 0; })) return;
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return inside_ == 0; });
}

void ThreadPool::ParallelRuns(int64_t chunks, LoopBody body) {
  const int64_t count = threads();
  if (chunks <= count) return ParallelFor(chunks, body);
  for (int64_t i = 0; i < count; ++i) {
    const auto bound = [&](int64_t run) { return static_cast<uint64_t>(chunks * run / count); };
    runs_[static_cast<size_t>(i)].left.store(bound(i) << 32 | bound(i + 1),
                                             std::memory_order_relaxed);
  }
  ParallelFor(count, [&](int64_t own, int thread) {
    for (int64_t i = 0; i < count; ++i) {
      std::atomic<uint64_t>& left = runs_[static_cast<size_t>((own + i) % count)].left;
      for (int64_t chunk; (chunk = TakeChunk(left, i == 0)) >= 0;) body(chunk, thread);
    }
  });
}

template <typename Done>
bool ThreadPool::Spin(Done done) const {
  for (int i = 0; spins_ && i < kSpins; ++i) {
    if (done()) return true;
    Pause();
  }
  return done();
}

void ThreadPool::Work(int thread) {
  uint64_t seen = 0;
  for (;;) {
    Spin([&] { return loop_.load(std::memory_order_relaxed) != seen; });
    std::unique_lock lock(mutex_);
    if (!open_ && loop_ != seen && !stop_) {
      // Missed it; the next may be as near.
      seen = loop_;
      continue;
    }
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
