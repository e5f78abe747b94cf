// SpeedEstimate: how fast one target is, learned from the requests it finished.
#pragma once

#include <mutex>

#include "engine/engine/request.h"
#include "router/target.h"

namespace hostler {

// Thread-safe.
class SpeedEstimate {
 public:
  // Of a request that ended well. One without a first token, or whose times run
  // backwards, teaches nothing.
  void Observe(int n, const Usage& usage, const Timings& timings);
  ObservedSpeed speed() const;

 private:
  void ObserveFirstToken(double tokens, double seconds);

  mutable std::mutex mutex_;  // guards all below
  ObservedSpeed speed_;
  // Weighted sums of (uncached prompt tokens, seconds) for a line through them.
  double weight_ = 0, x_ = 0, y_ = 0, xx_ = 0, xy_ = 0;
};

}  // namespace hostler
