// HealthTracker: whether an upstream should be given requests, from how the last
// ones and the checks went. Outlier ejection and circuit breaker in one, as
// Envoy's: closed (healthy), open (ejected), half open (probing).
#pragma once

#include <chrono>
#include <cstdint>

#include "router/target.h"
#include "router/upstream/options.h"

namespace hostler {

// Pure: told of events and of the time. Not thread-safe.
class HealthTracker {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit HealthTracker(const HealthOptions& options) : options_(options) {}

  enum class Admission {
    kYes,
    kProbe,  // yes, and what becomes of it decides; there is one at a time
    kNo,
  };
  // Every admission is followed by one of the calls below.
  Admission Admit(TimePoint now);

  void OnSuccess(TimePoint now, bool probe);
  void OnFailure(TimePoint now, bool probe);
  // Neither: the client left, or was at fault.
  void OnNeutral(bool probe);
  // The upstream asked for a pause.
  void OnThrottled(TimePoint now, double seconds, bool probe);

  void OnCheck(TimePoint now, bool ok);

  Health health(TimePoint now) const;
  // Seconds until Admit may say yes; 0: now.
  double RetryAfter(TimePoint now) const;
  uint64_t ejections() const { return ejections_; }

 private:
  struct Counts {
    int requests = 0, failed = 0;
  };

  void Count(TimePoint now, bool failed);
  void Eject(TimePoint now, bool by_check);
  void Recover(TimePoint now);

  const HealthOptions options_;
  int failures_in_a_row_ = 0;
  int failed_checks_ = 0;
  Counts now_, before_;  // of this half window and of the last
  TimePoint half_began_{};

  bool ejected_ = false;  // until a probe or check succeeds
  bool by_check_ = false;
  bool probing_ = false;  // a probe is under way
  TimePoint until_{};     // ejected_: no probe before
  TimePoint throttled_until_{};
  int in_a_row_ = 0;  // ejections that did not help
  TimePoint recovered_{};
  double last_ejection_s_ = 0;
  uint64_t ejections_ = 0;
};

}  // namespace hostler
