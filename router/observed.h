// SpeedEstimate: how fast one target is, learned from the requests it finished.
#pragma once

#include <mutex>
#include <vector>

#include "engine/engine/request.h"
#include "router/target.h"

namespace hostler {

// Thread-safe.
class SpeedEstimate {
 public:
  static constexpr size_t kWaits = 128, kFewWaits = 20;

  // Of a request that ended well. One without a first token, or whose times run
  // backwards, teaches nothing.
  void Observe(int n, const Usage& usage, const Timings& timings);
  ObservedSpeed speed() const;
  // A request had its first token `seconds` after it was sent, or none until then.
  void ObserveWait(double seconds);
  // The 95th percentile of the last waits; infinite while there were few.
  double SlowWait() const;

 private:
  void ObserveFirstToken(double tokens, double seconds);

  mutable std::mutex mutex_;  // guards all below
  ObservedSpeed speed_;
  std::vector<double> waits_;  // the last kWaits, a ring
  size_t next_wait_ = 0;
  // Weighted sums of (uncached prompt tokens, seconds) for a line through them.
  double weight_ = 0, x_ = 0, y_ = 0, xx_ = 0, xy_ = 0;
};

}  // namespace hostler
