#include "router/upstream/health.h"

#include <algorithm>
#include <cmath>

namespace hostler {
namespace {

HealthTracker::TimePoint After(HealthTracker::TimePoint now, double seconds) {
  return now + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                   std::chrono::duration<double>(seconds));
}

double Seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// Doubled at most so often.
constexpr int kMaxDoublings = 20;

}  // namespace

HealthTracker::Admission HealthTracker::Admit(TimePoint now) {
  if (now < throttled_until_) return Admission::kNo;
  if (!ejected_) return Admission::kYes;
  if (now < until_ || probing_) return Admission::kNo;
  probing_ = true;
  return Admission::kProbe;
}

void HealthTracker::Count(TimePoint now, bool failed) {
  const double half = options_.window_s / 2;
  const double age = Seconds(now - half_began_);
  if (age >= half) {
    before_ = age < 2 * half ? now_ : Counts();
    now_ = {};
    half_began_ = now;
  }
  ++now_.requests;
  now_.failed += failed;
}

void HealthTracker::OnSuccess(TimePoint now, bool probe) {
  if (probe) probing_ = false;
  failures_in_a_row_ = 0;
  if (ejected_) {
    // One that was under way when it was ejected proves nothing.
    if (probe) Recover(now);
    return;
  }
  Count(now, false);
  // It has kept well for as long as it was out: the next ejection is a first one.
  if (in_a_row_ > 0 && Seconds(now - recovered_) > last_ejection_s_) in_a_row_ = 0;
}

void HealthTracker::OnFailure(TimePoint now, bool probe) {
  if (probe) {
    probing_ = false;
    Eject(now, /*by_check=*/false);
    return;
  }
  if (ejected_) return;
  ++failures_in_a_row_;
  Count(now, true);
  const int requests = now_.requests + before_.requests;
  const int failed = now_.failed + before_.failed;
  const bool outlier =
      requests >= options_.min_requests && failed >= options_.error_share * requests;
  if (failures_in_a_row_ >= options_.failures || outlier) Eject(now, /*by_check=*/false);
}

void HealthTracker::OnNeutral(bool probe) {
  if (probe) probing_ = false;
}

void HealthTracker::OnThrottled(TimePoint now, double seconds, bool probe) {
  OnNeutral(probe);
  const double at_most = std::min(seconds, options_.max_ejection_s);
  throttled_until_ = std::max(throttled_until_, After(now, at_most));
}

void HealthTracker::OnCheck(TimePoint now, bool ok) {
  if (ok) {
    failed_checks_ = 0;
    // Requests that failed may fail still; a probe shows.
    if (ejected_ && by_check_) Recover(now);
    return;
  }
  ++failed_checks_;
  const bool is_out = ejected_ && (now < until_ || probing_);
  if (failed_checks_ >= options_.failed_checks && !is_out) Eject(now, /*by_check=*/true);
}

void HealthTracker::Eject(TimePoint now, bool by_check) {
  ejected_ = true;
  by_check_ = by_check;
  ++ejections_;
  const double doubled = std::ldexp(options_.ejection_s, std::min(in_a_row_, kMaxDoublings));
  last_ejection_s_ = std::min(doubled, options_.max_ejection_s);
  ++in_a_row_;
  until_ = After(now, last_ejection_s_);
}

void HealthTracker::Recover(TimePoint now) {
  ejected_ = by_check_ = false;
  failures_in_a_row_ = failed_checks_ = 0;
  now_ = before_ = {};
  recovered_ = now;
}

Health HealthTracker::health(TimePoint now) const {
  if (ejected_) return now < until_ ? Health::kEjected : Health::kProbing;
  return now < throttled_until_ ? Health::kThrottled : Health::kHealthy;
}

double HealthTracker::RetryAfter(TimePoint now) const {
  TimePoint at = throttled_until_;
  if (ejected_) at = std::max(at, until_);
  return std::max(0.0, Seconds(at - now));
}

}  // namespace hostler
