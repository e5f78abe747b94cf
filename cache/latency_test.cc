#include "cache/latency.h"

#include <gtest/gtest.h>

#include <cmath>

namespace hostler {
namespace {

TEST(LatencyTest, BucketsTakeWhatIsWithinTheirBounds) {
  for (int i = 0; i + 1 < LatencyHistogram::kBuckets; ++i) {
    const double bound = LatencyHistogram::Bound(i);
    EXPECT_EQ(LatencyHistogram::BucketOf(bound), i);
    EXPECT_EQ(LatencyHistogram::BucketOf(bound * 1.001), i + 1);
    EXPECT_EQ(LatencyHistogram::BucketOf(bound * 0.999), i);
  }
  EXPECT_EQ(LatencyHistogram::BucketOf(0), 0);
  EXPECT_EQ(LatencyHistogram::BucketOf(1e9), LatencyHistogram::kBuckets - 1);
  EXPECT_TRUE(std::isinf(LatencyHistogram::Bound(LatencyHistogram::kBuckets - 1)));
}

TEST(LatencyTest, QuantilesAreWithinABucketOfTheTruth) {
  LatencyRecorder recorder;
  EXPECT_EQ(recorder.Read().Quantile(.99), 0);
  for (int i = 1; i <= 1000; ++i) recorder.Add(i * 10'000);  // up to 10 ms
  const LatencyHistogram histogram = recorder.Read();
  EXPECT_EQ(histogram.count(), 1000u);
  EXPECT_NEAR(histogram.seconds, 5.005, 1e-9);
  EXPECT_NEAR(histogram.Quantile(.5), .005, .0005);
  EXPECT_NEAR(histogram.Quantile(.99), .0099, .001);
}

TEST(LatencyTest, WhatHasNoBoundIsAtLeastTheLastOne) {
  LatencyRecorder recorder;
  recorder.Add(int64_t{3600} * 1'000'000'000);
  EXPECT_EQ(recorder.Read().Quantile(.5), LatencyHistogram::Bound(LatencyHistogram::kBuckets - 2));
}

}  // namespace
}  // namespace hostler
