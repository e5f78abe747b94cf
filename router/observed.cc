#include "router/observed.h"

#include <algorithm>
#include <limits>

namespace hostler {
namespace {

// What one more request counts against all before it: about the last ten.
constexpr double kNew = 0.1;

void Blend(double value, bool first, double* average) {
  *average = first ? value : *average + kNew * (value - *average);
}

}  // namespace

void SpeedEstimate::ObserveFirstToken(double tokens, double seconds) {
  constexpr double kOld = 1 - kNew;
  weight_ = kOld * weight_ + 1;
  x_ = kOld * x_ + tokens;
  y_ = kOld * y_ + seconds;
  xx_ = kOld * xx_ + tokens * tokens;
  xy_ = kOld * xy_ + tokens * seconds;
  const double spread = xx_ - x_ * x_ / weight_;
  double slope = spread > 1 ? (xy_ - x_ * y_ / weight_) / spread : 0;
  // A line that leaves the first quadrant is pressed back into it.
  slope = std::clamp(slope, 0.0, x_ > 0 ? y_ / x_ : 0.0);
  speed_.prompt_token_s = slope;
  speed_.base_s = std::max(0.0, (y_ - slope * x_) / weight_);
}

void SpeedEstimate::Observe(int n, const Usage& usage, const Timings& timings) {
  const double first_s = (timings.first_token_ms - timings.queued_ms) / 1000;
  const double decode_s = (timings.total_ms - timings.first_token_ms) / 1000;
  if (usage.completion_tokens <= 0 || first_s < 0 || decode_s < 0) return;
  const double tokens = double(usage.completion_tokens) / std::max(n, 1);
  const int uncached = std::max(usage.prompt_tokens - usage.cached_prompt_tokens, 0);
  std::lock_guard lock(mutex_);
  const bool first = speed_.requests++ == 0;
  ObserveFirstToken(uncached, first_s);
  Blend(first_s + decode_s, first, &speed_.service_s);
  Blend(tokens, first, &speed_.output_tokens);
  if (tokens > 1) {
    Blend(decode_s / (tokens - 1), speed_.decode_token_s == 0, &speed_.decode_token_s);
  }
}

void SpeedEstimate::ObserveWait(double seconds) {
  std::lock_guard lock(mutex_);
  if (waits_.size() < kWaits) {
    waits_.push_back(seconds);
    return;
  }
  waits_[next_wait_] = seconds;
  next_wait_ = (next_wait_ + 1) % kWaits;
}

double SpeedEstimate::SlowWait() const {
  std::vector<double> waits;
  {
    std::lock_guard lock(mutex_);
    waits = waits_;
  }
  if (waits.size() < kFewWaits) return std::numeric_limits<double>::infinity();
  const auto slow = waits.begin() + ptrdiff_t(waits.size() * 95 / 100);
  std::nth_element(waits.begin(), slow, waits.end());
  return *slow;
}

ObservedSpeed SpeedEstimate::speed() const {
  std::lock_guard lock(mutex_);
  return speed_;
}

}  // namespace hostler
