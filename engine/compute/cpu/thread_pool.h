// A fixed set of threads for data-parallel loops.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace hostler {

// A loop body by reference: body(chunk, thread). Valid while the callable is.
class LoopBody {
 public:
  template <typename F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, LoopBody>)
      LoopBody(F&& body)  // NOLINT: implicit, so that lambdas can be passed as they are
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(body)))),
        call_([](void* object, int64_t chunk, int thread) {
          (*static_cast<std::remove_reference_t<F>*>(object))(chunk, thread);
        }) {}

  void operator()(int64_t chunk, int thread) const { call_(object_, chunk, thread); }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int);
};

// The thread that calls ParallelFor is one of the threads; one at a time may
// call it, and a body must not. A step is many short loops: workers look out for
// the next for some tens of microseconds, which is what waking them takes, then sleep.
class ThreadPool {
 public:
  // Starts threads - 1 workers, or as many of them as the system allows.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(chunk, thread) once for every chunk in [0, chunks); thread is in
  // [0, threads()) and no two calls at one time share it. Chunks are handed out
  // in ascending order to whichever thread is free. Allocates nothing.
  void ParallelFor(int64_t chunks, LoopBody body);

  // The same, but each thread takes a run of neighbours, whose memory it so reads in
  // order; one that is done takes the last ones of others. REQUIRES: chunks < 2^32
  void ParallelRuns(int64_t chunks, LoopBody body);

 private:
  // Chunks [first, end) that none took yet, as first << 32 | end.
  struct alignas(64) Run {
    std::atomic<uint64_t> left{0};
  };

  // state_: the loop's number << 32, and in the lower half whether workers may join it,
  // whether its caller sleeps until they have left, and how many are inside.
  static constexpr uint64_t kOpen = 1u << 31, kCallerSleeps = 1u << 30;
  static constexpr uint64_t kInside = kCallerSleeps - 1;

  void Work(int thread);
  // Until there is another loop than `seen` or the pool stops.
  void AwaitLoop(uint64_t seen);
  // Which loop it is, and whether it is open: the worker is inside it then.
  bool Join(uint64_t* loop);
  void Leave();
  // Until no worker is inside the loop, which is closed.
  void AwaitWorkers();
  void TakeChunks(int thread);
  // Waits a little for `done`, without sleeping; whether it came.
  template <typename Done>
  bool Spin(Done done) const;

  // Of no use where a thread that spins holds up another.
  const bool spins_;

  // Of the current loop; written while no worker is inside.
  const LoopBody* body_ = nullptr;
  int64_t chunks_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint64_t> state_{0};
  std::atomic<int> asleep_{0};  // workers, or about to be
  std::atomic<bool> stop_{false};

  // Only for those that sleep.
  std::mutex mutex_;
  std::condition_variable wake_;  // a loop opened, or the pool stops
  std::condition_variable idle_;  // no worker is inside the loop

  std::vector<Run> runs_;  // one a thread
  std::vector<std::thread> workers_;
};

}  // namespace hostler
