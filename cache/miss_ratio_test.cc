#include "cache/miss_ratio.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "cache/count_allocations.h"
#include "cache/expert_cache.h"
#include "cache/fake_store.h"
#include "cache/replay.h"

namespace hostler {
namespace {

constexpr uint64_t kSlot = 4096;

// Gates that choose `topk` by Zipf's law, in an order of popularity of each
// layer's own that changes slowly.
ExpertTrace ZipfTrace(int layers, int experts, int topk, int tokens, double exponent) {
  ExpertTrace trace;
  trace.header = {"zipf", layers, experts, topk, false, {}, {}};
  std::mt19937 random(7);
  std::vector<double> weights;
  for (int rank = 0; rank < experts; ++rank) weights.push_back(std::pow(rank + 1, -exponent));
  std::discrete_distribution<int> rank_of(weights.begin(), weights.end());
  std::vector<std::vector<int>> order(layers, std::vector<int>(experts));
  for (std::vector<int>& of_layer : order) {
    for (int e = 0; e < experts; ++e) of_layer[e] = e;
    std::shuffle(of_layer.begin(), of_layer.end(), random);
  }
  for (int token = 0; token < tokens; ++token) {
    for (int layer = 0; layer < layers; ++layer) {
      std::vector<int> chosen;
      while (chosen.size() < topk) {
        const int expert = order[layer][rank_of(random)];
        if (std::find(chosen.begin(), chosen.end(), expert) == chosen.end()) {
          chosen.push_back(expert);
        }
      }
      trace.lines.push_back({true, token, layer});
      trace.chosen.insert(trace.chosen.end(), chosen.begin(), chosen.end());
      std::swap(order[layer][random() % experts], order[layer][random() % experts]);
    }
  }
  return trace;
}

double HitRate(const RequestList& requests, int64_t capacity) {
  const auto policy = *NewEvictionPolicy("default", requests.shape());
  const ReplayCounts counts = Replay(requests, {capacity, false, false}, policy.get());
  return static_cast<double>(counts.hits) / static_cast<double>(counts.lookups);
}

// As the cache would feed it at a capacity where the policy hits `hit_rate`.
std::vector<MissRatioPoint> CurveOf(const RequestList& requests, int64_t capacity,
                                    double hit_rate) {
  const std::vector<MissRatioEstimator::Layer> layers(requests.shape().layers,
                                                      {requests.shape().experts, kSlot});
  MissRatioEstimator estimator(layers);
  double owed = 0;
  for (const RequestList::Item& item : requests.items()) {
    owed += hit_rate * static_cast<double>(item.request.experts.size());
    const int hits = static_cast<int>(owed);
    owed -= hits;
    estimator.OnRequest(item.request, hits, capacity * kSlot);
  }
  return estimator.Curve();
}

void ExpectNearReplay(const RequestList& requests, double most) {
  const int64_t anchor = CapacityOf(0.2, requests.shape());
  const auto curve = CurveOf(requests, anchor, HitRate(requests, anchor));
  for (const double share : {0.05, 0.1, 0.2, 0.3, 0.5, 0.8}) {
    const int64_t capacity = CapacityOf(share, requests.shape());
    EXPECT_NEAR(1 - MissRatioAt(curve, capacity * kSlot), HitRate(requests, capacity), most)
        << share;
  }
}

TEST(MissRatioTest, TellsWhatThePolicyWouldHitAtOtherCapacities) {
  for (const double exponent : {0.7, 1.2}) {
    ExpectNearReplay(RequestList(ZipfTrace(8, 64, 4, 300, exponent)), 0.04);
  }
}

TEST(MissRatioTest, TellsItOfSeveralSequencesInAStep) {
  ExpectNearReplay(RequestList(ZipfTrace(8, 64, 4, 1200, 1.0), 4), 0.04);
}

TEST(MissRatioTest, GoesThroughWhatWasSeenAndNeverRises) {
  const RequestList requests(ZipfTrace(4, 32, 2, 600, 1.0));
  const double all = 4 * 32 * kSlot;
  for (const double seen : {0.1, 0.5, 0.9}) {
    const auto curve = CurveOf(requests, 40, seen);
    EXPECT_NEAR(1 - MissRatioAt(curve, 40 * kSlot), seen, 0.05);
    EXPECT_EQ(curve.front().bytes, 0u);
    EXPECT_EQ(curve.front().miss_ratio, 1);
    EXPECT_EQ(curve.back().bytes, all);
    EXPECT_EQ(curve.back().miss_ratio, 0);
    for (size_t i = 1; i < curve.size(); ++i) {
      EXPECT_LT(curve[i - 1].bytes, curve[i].bytes);
      EXPECT_GE(curve[i - 1].miss_ratio, curve[i].miss_ratio);
    }
  }
}

TEST(MissRatioTest, PromptsTrainAndDoNotCount) {
  const MissRatioEstimator::Layer layers[] = {{8, kSlot}};
  MissRatioEstimator estimator(layers);
  const std::vector<int> experts = {0, 1, 2}, offsets = {0, 1, 3}, chosen = {0, 1, 2};
  estimator.OnRequest({0, experts, offsets, chosen}, 0, 4 * kSlot);
  EXPECT_THAT(estimator.Curve(), ::testing::IsEmpty());
  for (int i = 0; i < 100; ++i) estimator.OnRequest({0, experts, {}, {}}, 3, 4 * kSlot);
  // The three of the prompt are the best from the first on, and fit into three.
  EXPECT_LT(MissRatioAt(estimator.Curve(), 3 * kSlot), 0.02);
}

TEST(MissRatioTest, LayersOfLargerExpertsNeedMore) {
  const MissRatioEstimator::Layer layers[] = {{4, kSlot}, {4, 15 * kSlot}};
  const std::vector<int> one = {1};
  MissRatioEstimator small(layers), large(layers);
  for (int i = 0; i < 200; ++i) {
    small.OnRequest({0, one, {}, {}}, 1, 20 * kSlot);
    large.OnRequest({1, one, {}, {}}, 1, 20 * kSlot);
  }
  EXPECT_LT(MissRatioAt(small.Curve(), 3 * kSlot), 0.02);
  EXPECT_GT(MissRatioAt(large.Curve(), 3 * kSlot), 0.5);
  EXPECT_LT(MissRatioAt(large.Curve(), 17 * kSlot), 0.02);
}

TEST(MissRatioTest, ForgetsWhatOnceWas) {
  const MissRatioEstimator::Layer layers[] = {{16, kSlot}};
  MissRatioEstimator estimator(layers);
  for (int i = 0; i < 4000; ++i) {
    estimator.OnRequest({0, std::vector<int>{i % 16}, {}, {}}, 0, 4 * kSlot);
  }
  EXPECT_GT(MissRatioAt(estimator.Curve(), 4 * kSlot), 0.9);
  for (int i = 0; i < 4000; ++i) {
    estimator.OnRequest({0, std::vector<int>{i % 2}, {}, {}}, 1, 4 * kSlot);
  }
  EXPECT_LT(MissRatioAt(estimator.Curve(), 4 * kSlot), 0.05);
}

TEST(MissRatioTest, AllocatesNothingWhileServing) {
  const RequestList requests(ZipfTrace(4, 32, 2, 50, 1.0));
  const std::vector<MissRatioEstimator::Layer> layers(4, {32, kSlot});
  MissRatioEstimator estimator(layers);
  const int before = CountAllocations();
  for (const RequestList::Item& item : requests.items()) {
    estimator.OnRequest(item.request, 1, 40 * kSlot);
  }
  EXPECT_EQ(CountAllocations(), before);
}

TEST(MissRatioTest, TheCacheTellsWhatMoreWouldHit) {
  // Six experts of each layer in turn: with six slots for twelve nothing but luck.
  FakeStore store({{8, kSlot}, {8, kSlot}});
  ReadControl control(&store);
  auto cache = *ExpertCache::Create({.capacity_bytes = 6 * kSlot}, &store, control.NewReader(),
                                    NewEmaPolicy({2, 8}));
  EXPECT_TRUE(cache->MissRatioCurve().empty());
  for (int i = 0; i < 400; ++i) {
    for (const int layer : {0, 1}) {
      auto acquisition = cache->Acquire({layer, std::vector<int>{i % 6}, {}, {}});
      while (!acquisition.Next().empty()) {
      }
    }
  }
  const std::vector<MissRatioPoint> curve = cache->MissRatioCurve();
  const ExpertCacheStats stats = cache->stats();
  EXPECT_NEAR(MissRatioAt(curve, stats.capacity_bytes),
              static_cast<double>(stats.misses) / static_cast<double>(stats.hits + stats.misses),
              0.1);
  EXPECT_GT(MissRatioAt(curve, 6 * kSlot), 0.5);
  EXPECT_LT(MissRatioAt(curve, 13 * kSlot), 0.05);
}

TEST(MissRatioTest, SaysWhatMoreMemoryWouldBuy) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  const MissRatioPoint curve[] = {{0, 1}, {8 * kGiB, 0.2}, {16 * kGiB, 0.04}, {32 * kGiB, 0}};
  EXPECT_EQ(DescribeMoreMemory(curve, 8 * kGiB), "with 1 GiB more: 82% hits (80% now)");
  EXPECT_EQ(DescribeMoreMemory(curve, 12 * kGiB), "with 2 GiB more: 92% hits (88% now)");
  EXPECT_EQ(DescribeMoreMemory(curve, kGiB / 2), "with 64 MiB more: 6% hits (5% now)");
  EXPECT_EQ(DescribeMoreMemory(curve, 31 * kGiB),
            "with 1024 MiB more all experts fit (100% hits now)");
  EXPECT_EQ(DescribeMoreMemory(curve, 32 * kGiB), "all experts fit: more memory buys no hits");
  EXPECT_EQ(DescribeMoreMemory({}, kGiB), "");
}

}  // namespace
}  // namespace hostler
