#include "bench/loop_locks.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <chrono>

namespace hostler {
namespace {

thread_local bool counted = false;
std::atomic<uint64_t> taken{0}, contended{0}, wait_ns{0};

}  // namespace

void CountLocksOfThisThread() { counted = true; }

LoopLocks CountedLocks() {
  return {taken.load(), contended.load(), static_cast<double>(wait_ns.load()) * 1e-9};
}

}  // namespace hostler

extern "C" int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  using Lock = int (*)(pthread_mutex_t*);
  static const Lock lock = reinterpret_cast<Lock>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
  if (!hostler::counted) return lock(mutex);
  ++hostler::taken;
  if (pthread_mutex_trylock(mutex) == 0) return 0;
  ++hostler::contended;
  const auto start = std::chrono::steady_clock::now();
  const int result = lock(mutex);
  hostler::wait_ns +=
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start)
          .count();
  return result;
}
