#include "engine/compute/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "engine/base/cores.h"

namespace hostler {

namespace {

constexpr std::chrono::microseconds kSpin{50};
constexpr int kSpinsBetweenLooksAtTheClock = 16;

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

// A worker that is about to sleep counts itself as asleep before it looks at state_ for the
// last time, and a loop is opened before asleep_ is read: one of the two sees the other.
void ThreadPool::ParallelFor(int64_t chunks, LoopBody body) {
  if (workers_.empty() || chunks <= 1) {
    for (int64_t i = 0; i < chunks; ++i) body(i, 0);
    return;
  }
  body_ = &body;
  chunks_ = chunks;
  next_.store(0, std::memory_order_relaxed);
  const uint64_t loop = state_.load(std::memory_order_relaxed) >> 32;
  state_.store((loop + 1) << 32 | kOpen);
  if (asleep_ > 0) {
    { std::lock_guard lock(mutex_); }  // who counts as asleep waits by now
    if (chunks > static_cast<int64_t>(workers_.size())) {
      wake_.notify_all();
    } else {
      for (int64_t i = 1; i < chunks; ++i) wake_.notify_one();
    }
  }
  TakeChunks(0);
  // A worker that did not come in time finds the loop closed and is not waited for.
  if ((state_.fetch_and(~kOpen, std::memory_order_acquire) & kInside) > 0) AwaitWorkers();
}

void ThreadPool::AwaitWorkers() {
  const auto is_empty = [this] { return (state_.load(std::memory_order_acquire) & kInside) == 0; };
  if (Spin(is_empty)) return;
  std::unique_lock lock(mutex_);
  state_.fetch_or(kCallerSleeps);
  idle_.wait(lock, is_empty);
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
  if (!spins_) return done();
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kSpinsBetweenLooksAtTheClock; ++i) {
      if (done()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

void ThreadPool::Work(int thread) {
  uint64_t seen = 0;
  for (;;) {
    AwaitLoop(seen);
    if (stop_) return;
    if (!Join(&seen)) continue;  // missed it; the next may be as near
    TakeChunks(thread);
    Leave();
  }
}

void ThreadPool::AwaitLoop(uint64_t seen) {
  const auto has_come = [this, seen] { return state_ >> 32 != seen || stop_; };
  if (Spin(has_come)) return;
  std::unique_lock lock(mutex_);
  ++asleep_;
  wake_.wait(lock, has_come);
  --asleep_;
}

bool ThreadPool::Join(uint64_t* loop) {
  uint64_t state = state_;
  while ((state & kOpen) != 0 &&
         !state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) {
  }
  *loop = state >> 32;
  return (state & kOpen) != 0;
}

void ThreadPool::Leave() {
  const uint64_t before = state_.fetch_sub(1, std::memory_order_release);
  if ((before & kInside) != 1 || (before & kCallerSleeps) == 0) return;
  { std::lock_guard lock(mutex_); }  // the caller waits by now
  idle_.notify_one();
}

void ThreadPool::TakeChunks(int thread) {
  for (;;) {
    const int64_t chunk = next_.fetch_add(1, std::memory_order_relaxed);
    if (chunk >= chunks_) return;
    (*body_)(chunk, thread);
  }
}

}  // namespace hostler
