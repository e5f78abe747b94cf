// ExpertCache::Preload, and what the cache tells of reads by their class.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "cache/expert_cache.h"
#include "cache/fake_store.h"

namespace hostler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsSupersetOf;

constexpr size_t kSlotBytes = 4096;

class PreloadTest : public ::testing::Test {
 protected:
  void Open(int slots, std::vector<ExpertKey> pinned = {}, int least_slots = 0) {
    auto cache = ExpertCache::Create(
        {.capacity_bytes = slots * kSlotBytes, .least_bytes = least_slots * kSlotBytes}, &store_,
        control_.NewReader(), NewPinningPolicy(NewLruPolicy(), pinned));
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }

  void Use(const std::vector<int>& experts, int layer) {
    auto acquisition =
        cache_->Acquire({.layer = layer, .experts = experts, .offsets = {}, .chosen = {}});
    while (!acquisition.Next().empty()) {
    }
  }

  // Every read of Preload() has ended when one of these has, as reads end in
  // the order they begin.
  void WaitForPreloads(uint64_t bytes) {
    std::mutex mutex;
    std::condition_variable never;
    std::unique_lock lock(mutex);
    for (int i = 0; i < 2000 && cache_->stats().resident_bytes < bytes; ++i) {
      never.wait_for(lock, std::chrono::milliseconds(5));
    }
    EXPECT_EQ(cache_->stats().resident_bytes, bytes);
  }

  FakeStore store_{{{8, kSlotBytes}, {8, kSlotBytes}}};
  ReadControl control_{&store_};
  std::unique_ptr<ExpertCache> cache_;
};

TEST_F(PreloadTest, FillsTheCacheInOrderAndStopsWhenItIsFull) {
  Open(3);
  const ExpertKey popular[] = {{1, 2}, {0, 7}, {0, 1}, {1, 5}};
  cache_->Preload({}, popular);
  WaitForPreloads(3 * kSlotBytes);
  EXPECT_THAT(control_.begun(), ElementsAre(ExpertKey{1, 2}, ExpertKey{0, 7}, ExpertKey{0, 1}));
  const ExpertCacheStats stats = cache_->stats();
  EXPECT_EQ(stats.preload_reads, 3u);
  EXPECT_EQ(stats.reads, 3u);
  EXPECT_EQ(stats.preload_bytes, 3 * kSlotBytes);
  EXPECT_EQ(stats.read_bytes, stats.preload_bytes);
  EXPECT_EQ(stats.preloads_left, 0);
  EXPECT_EQ(stats.misses + stats.speculative_bytes + stats.speculative_wasted, 0u);
  Use({2}, 1);
  EXPECT_EQ(cache_->stats().hits, 1u);
  EXPECT_EQ(cache_->DemandReads().count(), 0u);
}

TEST_F(PreloadTest, WhoWaitsGoesFirst) {
  Open(6);
  const ExpertKey popular[] = {{1, 0}, {1, 1}, {1, 2}, {1, 3}};
  control_.Hold({1, 0});
  control_.Hold({1, 1});
  cache_->Preload({}, popular);
  control_.WaitForReads(2);
  Use({4, 5}, 0);
  EXPECT_THAT(control_.begun(),
              ElementsAre(ExpertKey{1, 0}, ExpertKey{1, 1}, ExpertKey{0, 4}, ExpertKey{0, 5}));
  EXPECT_EQ(cache_->DemandReads().count(), 2u);
  control_.LetGo({1, 0});
  control_.LetGo({1, 1});
  WaitForPreloads(6 * kSlotBytes);
}

TEST_F(PreloadTest, AnExpertBeingPreloadedIsWaitedForNotReadAgain) {
  Open(2);
  const ExpertKey popular[] = {{0, 3}};
  control_.Hold({0, 3});
  cache_->Preload({}, popular);
  control_.WaitForReads(1);
  auto acquisition =
      cache_->Acquire({.layer = 0, .experts = std::vector<int>{3}, .offsets = {}, .chosen = {}});
  control_.LetGo({0, 3});
  EXPECT_EQ(acquisition.Next().size(), 1u);
  EXPECT_EQ(control_.reads(), 1);
}

TEST_F(PreloadTest, OthersLeaveForPinnedOnesWhichStay) {
  const std::vector<ExpertKey> pinned = {{1, 6}, {1, 7}};
  Open(4, pinned, 3);
  Use({0, 1, 2, 3}, 0);
  cache_->Preload(pinned, {});
  control_.WaitForReads(6);
  WaitForPreloads(4 * kSlotBytes);
  for (int round = 0; round < 3; ++round) Use({0, 1, 2, 3, 4}, 0);
  uint64_t hits = cache_->stats().hits;
  Use({6, 7}, 1);
  EXPECT_EQ(cache_->stats().hits, hits + 2);
  // Pinned ones never leave, so the budget must not go below them.
  cache_->SetCapacity(0);
  EXPECT_EQ(cache_->stats().capacity_bytes, 3 * kSlotBytes);
  Use({0, 1, 2, 3, 4}, 0);
  hits = cache_->stats().hits;
  Use({6, 7}, 1);
  EXPECT_EQ(cache_->stats().hits, hits + 2);
}

TEST_F(PreloadTest, AFailedPreloadIsSkipped) {
  Open(4);
  control_.Fail({0, 0});
  const ExpertKey popular[] = {{0, 0}, {0, 1}};
  cache_->Preload({}, popular);
  WaitForPreloads(kSlotBytes);
  EXPECT_THAT(control_.begun(), IsSupersetOf({ExpertKey{0, 0}, ExpertKey{0, 1}}));
  EXPECT_EQ(cache_->stats().read_errors, 1u);
}

TEST_F(PreloadTest, UsefulAndWastedGuessesAreToldApartInBytes) {
  Open(3);
  const ExpertGuess guesses[] = {{{1, 3}, 0.9f}, {{1, 5}, 0.8f}};
  cache_->Prefetch(guesses);
  WaitForPreloads(2 * kSlotBytes);
  Use({3}, 1);
  Use({0, 1, 2}, 0);
  const ExpertCacheStats stats = cache_->stats();
  EXPECT_EQ(stats.speculative_useful_bytes, kSlotBytes);
  EXPECT_EQ(stats.speculative_wasted_bytes, kSlotBytes);
  EXPECT_EQ(stats.speculative_bytes, 2 * kSlotBytes);
  EXPECT_EQ(stats.speculative_in_flight + stats.speculative_queued, 0);
}

}  // namespace
}  // namespace hostler
