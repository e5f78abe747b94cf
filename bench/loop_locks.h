// How long one thread waits for mutexes. The binary that links loop_locks.cc has
// its pthread_mutex_lock replaced by one that counts.
#pragma once

#include <cstdint>

namespace hostler {

struct LoopLocks {
  uint64_t taken = 0;
  uint64_t contended = 0;  // somebody else held it
  double wait_s = 0;
};

// From now on this thread is the one that is watched.
void CountLocksOfThisThread();
LoopLocks CountedLocks();

}  // namespace hostler
