// Alarms: calls back at set times.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace hostler {

// On one thread of its own, which begins with the first alarm. Thread-safe.
class Alarms {
 public:
  using Clock = std::chrono::steady_clock;

  Alarms() = default;
  ~Alarms();  // those not due yet are forgotten
  Alarms(const Alarms&) = delete;
  Alarms& operator=(const Alarms&) = delete;

  // `callback` must not block. Never 0.
  uint64_t Set(Clock::time_point when, std::function<void()> callback);
  // The callback does not run after this, unless this is called by it. 0: nothing.
  void Clear(uint64_t id);

 private:
  using Key = std::pair<Clock::time_point, uint64_t>;

  void Run();

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::map<Key, std::function<void()>> waiting_;
  std::map<uint64_t, Clock::time_point> times_;  // of waiting_, by id
  uint64_t last_id_ = 0;
  uint64_t running_ = 0;  // whose callback runs now; 0: none
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace hostler
