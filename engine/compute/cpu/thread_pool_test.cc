#include "engine/compute/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace hostler {
namespace {

TEST(ThreadPoolTest, EveryChunkRunsOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int64_t chunks : {0, 1, 2, 3, 100}) {
      for (int repeat = 0; repeat < 50; ++repeat) {
        // Plain ints: that the pool orders accesses is part of the test (tsan).
        std::vector<int> runs(static_cast<size_t>(chunks), 0);
        pool.ParallelFor(chunks, [&](int64_t i, int) { ++runs[static_cast<size_t>(i)]; });
        for (int count : runs) ASSERT_EQ(count, 1);
        pool.ParallelRuns(chunks, [&](int64_t i, int) { ++runs[static_cast<size_t>(i)]; });
        for (int count : runs) ASSERT_EQ(count, 2);
      }
    }
  }
}

TEST(ThreadPoolTest, ThreadsInALoopHaveDifferentNumbers) {
  ThreadPool pool(4);
  std::vector<int> busy(4, 0);
  std::atomic<bool> shared{false};
  for (int repeat = 0; repeat < 100; ++repeat) {
    pool.ParallelFor(64, [&](int64_t, int thread) {
      int& mine = busy[static_cast<size_t>(thread)];
      if (++mine != 1) shared = true;
      --mine;
    });
  }
  EXPECT_FALSE(shared);
}

TEST(ThreadPoolTest, AThreadThatIsDoneTakesOfAnothersRun) {
  ThreadPool pool(2);
  // The first chunk ends only when the others have run, of which its thread had three.
  std::atomic<int> ran{0};
  std::atomic<bool> waited{false};
  pool.ParallelRuns(8, [&](int64_t, int) {
    if (waited.exchange(true)) {
      ++ran;
    } else {
      while (ran < 7) std::this_thread::yield();
    }
  });
  EXPECT_EQ(ran, 7);
}

TEST(ThreadPoolTest, OtherThreadsTakePart) {
  ThreadPool pool(2);
  // The first chunk ends only when another thread has run the second.
  std::mutex mutex;
  std::condition_variable ran;
  std::set<std::thread::id> ids;
  pool.ParallelFor(2, [&](int64_t, int) {
    std::unique_lock lock(mutex);
    ids.insert(std::this_thread::get_id());
    ran.notify_all();
    ran.wait(lock, [&] { return ids.size() == 2; });
  });
  EXPECT_EQ(ids.size(), 2u);
}

TEST(ThreadPoolTest, ThreadsThatSleepAreWoken) {
  constexpr std::chrono::milliseconds kLong{1};  // they look out for less
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::this_thread::sleep_for(kLong);
    // Each chunk takes a thread of its own, and the caller's ends first.
    std::atomic<int> begun{0}, ended{0};
    pool.ParallelFor(3, [&](int64_t, int thread) {
      for (++begun; begun < 3;) std::this_thread::yield();
      if (thread != 0) std::this_thread::sleep_for(kLong);
      ++ended;
    });
    ASSERT_EQ(ended, 3);
  }
}

TEST(ThreadPoolTest, UnusedPoolsStop) {
  for (int i = 0; i < 20; ++i) ThreadPool pool(3);
}

}  // namespace
}  // namespace hostler
