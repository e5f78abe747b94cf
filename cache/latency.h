// How long something took, many times over: counts in fixed buckets.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace hostler {

struct LatencyHistogram {
  // Bucket i takes what lasted more than Bound(i - 1) and up to Bound(i)
  // seconds. Bounds double every four buckets, from 50 µs to 2.3 s; the last bucket
  // has none (infinity).
  static constexpr int kBuckets = 64;
  static double Bound(int bucket);
  static int BucketOf(double seconds);

  std::array<uint64_t, kBuckets> counts{};
  double seconds = 0;  // of all together

  uint64_t count() const;
  // The duration that a share `q` of all stayed within, interpolated in its
  // bucket; 0 when there were none.
  double Quantile(double q) const;
};

// Makes one. Any thread; each number is right, if not all as of one moment.
class LatencyRecorder {
 public:
  void Add(int64_t ns);
  LatencyHistogram Read() const;

 private:
  std::atomic<int64_t> ns_{0};
  std::array<std::atomic<uint64_t>, LatencyHistogram::kBuckets> counts_{};
};

}  // namespace hostler
