#include "cache/latency.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hostler {
namespace {

const std::array<double, LatencyHistogram::kBuckets>& Bounds() {
  static const auto bounds = [] {
    std::array<double, LatencyHistogram::kBuckets> values;
    for (int i = 0; i < LatencyHistogram::kBuckets; ++i) values[i] = 50e-6 * std::exp2(i / 4.0);
    values.back() = std::numeric_limits<double>::infinity();
    return values;
  }();
  return bounds;
}

}  // namespace

double LatencyHistogram::Bound(int bucket) { return Bounds()[bucket]; }

int LatencyHistogram::BucketOf(double seconds) {
  const auto& bounds = Bounds();
  return static_cast<int>(std::lower_bound(bounds.begin(), bounds.end() - 1, seconds) -
                          bounds.begin());
}

uint64_t LatencyHistogram::count() const {
  uint64_t sum = 0;
  for (const uint64_t count : counts) sum += count;
  return sum;
}

double LatencyHistogram::Quantile(double q) const {
  const double wanted = q * static_cast<double>(count());
  double below = 0;
  for (int i = 0; i < kBuckets; ++i) {
    const double here = static_cast<double>(counts[i]);
    if (here > 0 && below + here >= wanted) {
      const double low = i == 0 ? 0 : Bound(i - 1);
      if (i == kBuckets - 1) return low;
      return low + (Bound(i) - low) * std::max(0.0, wanted - below) / here;
    }
    below += here;
  }
  return 0;
}

void LatencyRecorder::Add(int64_t ns) {
  ns_ += ns;
  ++counts_[LatencyHistogram::BucketOf(static_cast<double>(ns) * 1e-9)];
}

LatencyHistogram LatencyRecorder::Read() const {
  LatencyHistogram histogram;
  for (int i = 0; i < LatencyHistogram::kBuckets; ++i) histogram.counts[i] = counts_[i];
  histogram.seconds = static_cast<double>(ns_) * 1e-9;
  return histogram;
}

}  // namespace hostler
