#include "cache/expert_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "cache/count_allocations.h"
#include "cache/fake_store.h"
#include "cache/stress_round.h"

namespace hostler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr size_t kSlotBytes = 4096;  // what a slot is rounded up to

// LRU that lets a test wait until an expert was erased.
class WatchedPolicy : public EvictionPolicy {
 public:
  struct Watch {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<int> erased;

    void WaitForErased(int expert) {
      std::unique_lock lock(mutex);
      changed.wait(lock,
                   [&] { return std::find(erased.begin(), erased.end(), expert) != erased.end(); });
    }
  };

  explicit WatchedPolicy(Watch* watch) : watch_(watch), lru_(NewLruPolicy()) {}

  std::string_view name() const override { return "watched"; }
  void OnRequest(const ExpertRequest& request) override { lru_->OnRequest(request); }
  void OnInsert(ExpertKey key) override { lru_->OnInsert(key); }
  void OnErase(ExpertKey key) override {
    lru_->OnErase(key);
    std::lock_guard lock(watch_->mutex);
    watch_->erased.push_back(key.expert);
    watch_->changed.notify_all();
  }
  bool PickVictim(const std::function<bool(ExpertKey)>& evictable, ExpertKey* victim) override {
    return lru_->PickVictim(evictable, victim);
  }

 private:
  Watch* const watch_;
  std::unique_ptr<EvictionPolicy> lru_;
};

class ExpertCacheTest : public ::testing::Test {
 protected:
  explicit ExpertCacheTest(std::vector<FakeStore::Layer> layers = {{8, kSlotBytes},
                                                                   {8, kSlotBytes}})
      : store_(std::move(layers)) {}

  void Open(int slots, int reads = 4, int speculative_reads = 2) {
    auto cache = ExpertCache::Create({.capacity_bytes = slots * kSlotBytes,
                                      .speculative_reads = speculative_reads,
                                      .govern_prefetch = false},
                                     &store_, control_.NewReader(reads),
                                     std::make_unique<WatchedPolicy>(&watch_));
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }

  ExpertCache::Acquisition Acquire(const std::vector<int>& experts, int layer = 0) {
    layer_ = layer;
    return cache_->Acquire({.layer = layer, .experts = experts, .offsets = {}, .chosen = {}});
  }

  // One Next(): the experts it returned, each checked; failed ones as -expert.
  std::vector<int> Next(ExpertCache::Acquisition* acquisition) {
    std::vector<int> experts;
    for (const AcquiredExpert& ready : acquisition->Next()) {
      EXPECT_EQ(ready.data != nullptr, ready.status.ok());
      if (ready.data != nullptr) {
        EXPECT_TRUE(store_.Matches({layer_, ready.expert}, ready.data)) << ready.expert;
      }
      experts.push_back(ready.data != nullptr ? ready.expert : -ready.expert);
    }
    return experts;
  }

  // A whole acquisition: what Next() returned over all calls, and the calls.
  std::vector<int> All(const std::vector<int>& experts, int layer = 0) {
    ExpertCache::Acquisition acquisition = Acquire(experts, layer);
    std::vector<int> all;
    calls_ = 0;
    for (;;) {
      const std::vector<int> some = Next(&acquisition);
      if (some.empty()) break;
      ++calls_;
      all.insert(all.end(), some.begin(), some.end());
    }
    EXPECT_THAT(Next(&acquisition), IsEmpty());
    return all;
  }

  ExpertCacheStats stats() const { return cache_->stats(); }

  FakeStore store_;
  ReadControl control_{&store_};
  WatchedPolicy::Watch watch_;
  std::unique_ptr<ExpertCache> cache_;
  int layer_ = 0;
  int calls_ = 0;
};

TEST_F(ExpertCacheTest, MissesAreReadOnceAndHitAfterwards) {
  Open(4);
  EXPECT_THAT(All({2, 5}), UnorderedElementsAre(2, 5));
  EXPECT_THAT(All({5, 2, 7}), UnorderedElementsAre(2, 5, 7));
  EXPECT_THAT(All({5}, 1), ElementsAre(5)) << "another layer's expert of the same number";
  EXPECT_EQ(stats().hits, 2u);
  EXPECT_EQ(stats().misses, 4u);
  EXPECT_EQ(stats().evictions, 0u);
  EXPECT_EQ(stats().read_bytes, 4 * kSlotBytes);
  EXPECT_EQ(stats().read_errors, 0u);
  EXPECT_EQ(stats().resident_bytes, 4 * kSlotBytes);
  EXPECT_EQ(stats().capacity_bytes, 4 * kSlotBytes);
  EXPECT_EQ(stats().model_bytes, 16 * kSlotBytes);
  EXPECT_EQ(stats().pinned_slots, 0);
  EXPECT_EQ(control_.reads(), 4);
}

TEST_F(ExpertCacheTest, AskingForNothingReturnsNothing) {
  Open(1);
  EXPECT_THAT(All({}), IsEmpty());
}

TEST_F(ExpertCacheTest, TheLeastRecentlyRequestedIsEvicted) {
  Open(2);
  All({0});
  All({1});
  All({0});
  All({2});  // evicts 1
  EXPECT_EQ(stats().evictions, 1u);
  All({0});
  EXPECT_EQ(stats().hits, 2u);
  All({1});
  EXPECT_EQ(stats().misses, 4u);
  EXPECT_EQ(stats().evictions, 2u);
}

TEST_F(ExpertCacheTest, ResidentMembersAreNotEvictedForMissingOnes) {
  Open(2);
  All({0, 1});
  ExpertCache::Acquisition acquisition = Acquire({2, 0, 1, 3});
  EXPECT_THAT(Next(&acquisition), ElementsAre(0, 1));
  EXPECT_EQ(stats().pinned_slots, 2);
  EXPECT_EQ(control_.reads(), 2) << "no slot to read into before these are released";
  std::vector<int> rest = Next(&acquisition);
  while (rest.size() < 2) rest.push_back(Next(&acquisition).front());
  EXPECT_THAT(rest, UnorderedElementsAre(2, 3));
  EXPECT_THAT(Next(&acquisition), IsEmpty());
  EXPECT_EQ(stats().hits, 2u);
  EXPECT_EQ(stats().evictions, 2u);
}

TEST_F(ExpertCacheTest, OneSlotServesAnyNumberInWaves) {
  Open(1);
  EXPECT_THAT(All({4, 1, 3, 0, 2}), ElementsAre(4, 1, 3, 0, 2));
  EXPECT_EQ(calls_, 5);
  EXPECT_EQ(stats().evictions, 4u);
  EXPECT_GT(stats().stall_seconds, 0);
  EXPECT_EQ(stats().pinned_slots, 0);
  EXPECT_THAT(All({5, 2}), ElementsAre(2, 5)) << "the resident one comes first";
  EXPECT_EQ(stats().hits, 1u);
}

TEST_F(ExpertCacheTest, TwoSlotsServeAnyNumberInWaves) {
  Open(2);
  EXPECT_THAT(All({0, 1, 2, 3, 4, 5, 6, 7}), UnorderedElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_GE(calls_, 4);
  EXPECT_EQ(stats().misses, 8u);
  EXPECT_EQ(stats().evictions, 6u);
  EXPECT_EQ(stats().resident_bytes, 2 * kSlotBytes);
}

TEST_F(ExpertCacheTest, ResidentOnesAreReadyWhileTheOthersAreRead) {
  Open(4);
  All({3, 4});
  const double stalled_before = stats().stall_seconds;
  control_.Hold({0, 6});
  ExpertCache::Acquisition acquisition = Acquire({6, 3, 4});
  EXPECT_THAT(Next(&acquisition), ElementsAre(3, 4));
  EXPECT_EQ(stats().stall_seconds, stalled_before);
  control_.LetGo({0, 6});
  EXPECT_THAT(Next(&acquisition), ElementsAre(6));
}

TEST_F(ExpertCacheTest, ExpertsComeInTheOrderTheirReadsEnd) {
  Open(4, 3);
  for (int expert : {0, 1, 2}) control_.Hold({0, expert});
  ExpertCache::Acquisition acquisition = Acquire({0, 1, 2});
  control_.WaitForReads(3);
  for (int expert : {1, 2, 0}) {
    control_.LetGo({0, expert});
    EXPECT_THAT(Next(&acquisition), ElementsAre(expert));
  }
  EXPECT_THAT(Next(&acquisition), IsEmpty());
}

TEST_F(ExpertCacheTest, WhatWasDeliveredIsPinnedUntilTheFollowingNext) {
  Open(2);
  All({0});
  ExpertCache::Acquisition acquisition = Acquire({0});
  EXPECT_THAT(Next(&acquisition), ElementsAre(0));
  EXPECT_EQ(stats().pinned_slots, 1);
  EXPECT_THAT(Next(&acquisition), IsEmpty());
  EXPECT_EQ(stats().pinned_slots, 0);
}

TEST_F(ExpertCacheTest, AFailedReadIsDeliveredAndTriedAgainNextTime) {
  Open(4);
  control_.Fail({0, 2});
  EXPECT_THAT(All({1, 2, 3}), UnorderedElementsAre(1, -2, 3));
  EXPECT_EQ(stats().read_errors, 1u);
  EXPECT_EQ(stats().resident_bytes, 2 * kSlotBytes);
  EXPECT_EQ(stats().pinned_slots, 0);
  control_.Fail({0, 2}, false);
  EXPECT_THAT(All({1, 2, 3}), UnorderedElementsAre(1, 2, 3));
  EXPECT_EQ(stats().hits, 2u);
  EXPECT_EQ(stats().misses, 4u);
  EXPECT_EQ(stats().read_errors, 1u);
}

TEST_F(ExpertCacheTest, TheStatusOfAFailedReadIsPassedOn) {
  Open(2);
  control_.Fail({0, 2});
  ExpertCache::Acquisition acquisition = Acquire({2});
  const std::span<const AcquiredExpert> ready = acquisition.Next();
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(ready[0].status, absl::UnavailableError("MoE layer 0, expert 2: the disk failed"));
}

TEST_F(ExpertCacheTest, AReadThatFailsTwiceIsDeliveredByTheThirdAttempt) {
  Open(4);
  control_.Inject({0, 2}, ReadControl::Fault::kError, 2);
  EXPECT_THAT(All({1, 2, 3}), UnorderedElementsAre(1, 2, 3));
  EXPECT_EQ(control_.reads(), 5);
  EXPECT_EQ(stats().read_retries, 2u);
  EXPECT_EQ(stats().read_errors, 0u);
}

TEST_F(ExpertCacheTest, AReadThatKeepsFailingIsGivenUpAfterTwoRetries) {
  Open(4);
  control_.Inject({0, 2}, ReadControl::Fault::kError, 3);
  EXPECT_THAT(All({1, 2}), UnorderedElementsAre(1, -2));
  EXPECT_EQ(control_.reads(), 4);
  EXPECT_EQ(stats().read_retries, 2u);
  EXPECT_EQ(stats().read_errors, 1u);
  EXPECT_THAT(All({2}), ElementsAre(2)) << "and serves again";
}

TEST_F(ExpertCacheTest, DamagedBytesAreReadOnceMore) {
  Open(4);
  control_.Inject({0, 2}, ReadControl::Fault::kFlippedByte, 1);
  EXPECT_THAT(All({2}), ElementsAre(2));
  EXPECT_EQ(stats().read_retries, 1u);
  EXPECT_EQ(stats().read_errors, 0u);
  control_.Inject({0, 3}, ReadControl::Fault::kFlippedByte, 2);
  ExpertCache::Acquisition acquisition = Acquire({3});
  const std::span<const AcquiredExpert> ready = acquisition.Next();
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_TRUE(absl::IsDataLoss(ready[0].status)) << ready[0].status;
  EXPECT_EQ(control_.reads(), 4);
  EXPECT_EQ(stats().read_retries, 2u);
  EXPECT_EQ(stats().read_errors, 1u);
}

TEST_F(ExpertCacheTest, ASlowReadHoldsUpNoneOfTheOthersAndItsRetriesComeInTime) {
  Open(4);
  control_.Hold({0, 2});
  control_.Inject({0, 2}, ReadControl::Fault::kError, 1);
  ExpertCache::Acquisition acquisition = Acquire({1, 2, 3});
  std::vector<int> others = Next(&acquisition);
  while (others.size() < 2) others.push_back(Next(&acquisition).front());
  EXPECT_THAT(others, UnorderedElementsAre(1, 3));
  control_.LetGo({0, 2});
  EXPECT_THAT(Next(&acquisition), ElementsAre(2));
  EXPECT_EQ(stats().read_retries, 1u);
}

TEST_F(ExpertCacheTest, AGuessThatFailsIsNotReadAgainUntilSomeoneWaits) {
  Open(4);
  control_.Inject({1, 3}, ReadControl::Fault::kError, 1);
  const ExpertGuess guess[] = {{{1, 3}, 0.9f}};
  cache_->Prefetch(guess);
  watch_.WaitForErased(3);
  EXPECT_EQ(control_.reads(), 1);
  EXPECT_EQ(stats().read_retries, 0u);
  EXPECT_THAT(All({3}, 1), ElementsAre(3));
}

TEST_F(ExpertCacheTest, FailedReadsInOneSlotDoNotStopTheWaves) {
  Open(1);
  for (int expert : {1, 2, 5}) control_.Fail({0, expert});
  EXPECT_THAT(All({1, 2, 3, 4, 5}), ElementsAre(-1, -2, 3, 4, -5));
  EXPECT_EQ(stats().read_errors, 3u);
}

TEST_F(ExpertCacheTest, TheSlotOfAFailedReadIsUsedAtOnce) {
  Open(1, 1);
  control_.Fail({0, 3});
  ExpertCache::Acquisition acquisition = Acquire({3, 1});
  control_.WaitForReads(4);  // thrice the one that fails, before any Next()
  std::vector<int> all = Next(&acquisition);
  if (all.size() < 2) all.push_back(Next(&acquisition).front());
  EXPECT_THAT(all, ElementsAre(-3, 1));
}

TEST_F(ExpertCacheTest, LeavingEarlyDropsQueuedReadsAndKeepsThoseInFlight) {
  Open(4, 1);
  control_.Hold({0, 0});
  auto acquisition = std::make_unique<ExpertCache::Acquisition>(Acquire({0, 1, 2}));
  control_.WaitForReads(1);
  acquisition.reset();
  EXPECT_THAT(watch_.erased, ElementsAre(1, 2));
  EXPECT_EQ(stats().pinned_slots, 0);
  EXPECT_EQ(control_.reads(), 1);
  ExpertCache::Acquisition again = Acquire({0});
  control_.LetGo({0, 0});
  EXPECT_THAT(Next(&again), ElementsAre(0));
  EXPECT_EQ(control_.reads(), 1) << "the read under way was waited for, not begun again";
}

TEST_F(ExpertCacheTest, LeavingWithDeliveredAndWaitingExpertsReleasesThem) {
  Open(2);
  All({0, 1});
  {
    ExpertCache::Acquisition acquisition = Acquire({0, 1, 2, 3});
    EXPECT_THAT(Next(&acquisition), ElementsAre(0, 1));
    ExpertCache::Acquisition moved = std::move(acquisition);
    EXPECT_EQ(stats().pinned_slots, 2);
  }
  EXPECT_EQ(stats().pinned_slots, 0);
  EXPECT_EQ(control_.reads(), 2);
  EXPECT_THAT(All({2, 3}), UnorderedElementsAre(2, 3));
}

TEST_F(ExpertCacheTest, AFailureAfterLeavingFreesItsSlot) {
  Open(1, 1);
  control_.Hold({0, 0});
  control_.Fail({0, 0});
  auto acquisition = std::make_unique<ExpertCache::Acquisition>(Acquire({0, 1}));
  control_.WaitForReads(1);
  control_.LetGo({0, 0});
  acquisition.reset();
  EXPECT_THAT(All({1}), ElementsAre(1));
  EXPECT_GE(stats().read_errors, 1u);
}

TEST_F(ExpertCacheTest, MoreMemoryThanExpertsIsNotTaken) {
  Open(1000);
  EXPECT_EQ(stats().capacity_bytes, 16 * kSlotBytes);
}

TEST_F(ExpertCacheTest, TheSteadyStateAllocatesNothing) {
  Open(3);
  const std::vector<int> requests[] = {{0, 1, 2, 3}, {4, 5}, {6, 0, 7, 1, 2}};
  const auto run = [&] {
    for (const std::vector<int>& experts : requests) {
      ExpertCache::Acquisition acquisition =
          cache_->Acquire({.layer = 0, .experts = experts, .offsets = {}, .chosen = {}});
      while (!acquisition.Next().empty()) {
      }
    }
  };
  watch_.erased.reserve(1000);
  run();
  const int before = CountAllocations();
  run();
  EXPECT_EQ(CountAllocations(), before);
}

class DecodedExpertCacheTest : public ExpertCacheTest {
 protected:
  // A small plain layer, and a decoded one whose slots take twice as much.
  DecodedExpertCacheTest() : ExpertCacheTest({{4, 900}, {8, 2 * kSlotBytes, true}}) {}
};

TEST_F(DecodedExpertCacheTest, StoredBytesAreDecodedIntoTheSlot) {
  Open(4);
  EXPECT_THAT(All({0, 1, 2, 3, 4}, 1), UnorderedElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(All({3, 0}, 0), UnorderedElementsAre(3, 0));
  EXPECT_EQ(stats().read_bytes, 5 * kSlotBytes + 2 * 900);
  EXPECT_EQ(stats().model_bytes, 4 * kSlotBytes + 8 * 2 * kSlotBytes);
}

TEST_F(DecodedExpertCacheTest, LayersTakeMemoryFromEachOther) {
  Open(4);
  All({0, 1}, 1);
  EXPECT_EQ(stats().resident_bytes, 4 * kSlotBytes);
  EXPECT_THAT(cache_->ResidentBytes(), ElementsAre(0, 4 * kSlotBytes));
  All({0, 1, 2}, 0);
  EXPECT_THAT(cache_->ResidentBytes(), ElementsAre(3 * kSlotBytes, 0));
  All({0}, 1);
  EXPECT_THAT(cache_->ResidentBytes(), ElementsAre(2 * kSlotBytes, 2 * kSlotBytes));
}

TEST_F(DecodedExpertCacheTest, BytesThatCannotBeDecodedAreAFailedRead) {
  Open(4);
  store_.undecodable = {1, 3};
  EXPECT_THAT(All({3, 4}, 1), UnorderedElementsAre(-3, 4));
  EXPECT_EQ(stats().read_errors, 1u);
}

TEST_F(DecodedExpertCacheTest, BytesThatFailTheStoresCheckAreAFailedRead) {
  Open(4);
  for (const int layer : {0, 1}) {
    store_.damaged = {layer, 3};
    EXPECT_THAT(All({3, 2}, layer), UnorderedElementsAre(-3, 2)) << "layer " << layer;
  }
  EXPECT_EQ(stats().read_errors, 2u);
  EXPECT_EQ(stats().pinned_slots, 0);
  // Nothing of them stays: once they are whole again they are read.
  store_.damaged = {-1, -1};
  EXPECT_THAT(All({3}, 1), UnorderedElementsAre(3));
}

TEST_F(ExpertCacheTest, AGuessIsReadAndHit) {
  Open(4);
  const ExpertGuess guesses[] = {{{1, 3}, 0.9f}, {{1, 5}, 0.5f}};
  cache_->Prefetch(guesses);
  EXPECT_THAT(control_.begun(), ElementsAre(ExpertKey{1, 3}, ExpertKey{1, 5}));
  All({0});  // read after both, so they have ended
  EXPECT_THAT(All({3, 5}, 1), UnorderedElementsAre(3, 5));
  EXPECT_EQ(stats().hits + stats().speculative_late, 2u);
  EXPECT_EQ(stats().speculative_hits + stats().speculative_late, 2u);
  EXPECT_EQ(stats().speculative_reads, 2u);
  EXPECT_EQ(stats().speculative_bytes, 2 * kSlotBytes);
  EXPECT_EQ(stats().reads, 3u);
  EXPECT_EQ(stats().read_bytes, 3 * kSlotBytes);
  EXPECT_EQ(stats().speculative_wasted, 0u);
}

TEST_F(ExpertCacheTest, AGuessUnderWayIsWaitedForNotReadAgain) {
  Open(4);
  control_.Hold({1, 3});
  const ExpertGuess guess[] = {{{1, 3}, 0.9f}};
  cache_->Prefetch(guess);
  ExpertCache::Acquisition acquisition = Acquire({3}, 1);
  control_.LetGo({1, 3});
  EXPECT_THAT(Next(&acquisition), ElementsAre(3));
  EXPECT_EQ(control_.reads(), 1);
  EXPECT_EQ(stats().speculative_late, 1u);
}

TEST_F(ExpertCacheTest, WhoWaitsComesBeforeGuessesAndPromotesThem) {
  Open(8, 1);
  control_.Hold({0, 0});
  const ExpertGuess guesses[] = {{{0, 0}, 0.9f}, {{1, 1}, 0.8f}, {{1, 2}, 0.7f}};
  cache_->Prefetch(guesses);
  control_.WaitForReads(1);
  ExpertCache::Acquisition acquisition = Acquire({2, 5}, 1);
  control_.LetGo({0, 0});
  std::vector<int> all = Next(&acquisition);
  while (all.size() < 2) all.push_back(Next(&acquisition).front());
  EXPECT_THAT(control_.begun(), ElementsAre(ExpertKey{0, 0}, ExpertKey{1, 2}, ExpertKey{1, 5}))
      << "expert 1 was guessed of a layer that wanted others";
}

TEST_F(ExpertCacheTest, GuessesTakeOnlySoMuchOfTheDisk) {
  Open(8, 8, /*speculative_reads=*/1);
  control_.Hold({1, 1});
  const ExpertGuess guesses[] = {{{1, 1}, 0.8f}, {{1, 2}, 0.7f}};
  cache_->Prefetch(guesses);
  EXPECT_EQ(control_.reads(), 1);
  EXPECT_EQ(stats().reads_queued, 1);
  EXPECT_THAT(All({4}), ElementsAre(4));
  control_.LetGo({1, 1});
}

TEST_F(ExpertCacheTest, WithoutSpeculativeReadsGuessesAreIgnored) {
  Open(8, 8, /*speculative_reads=*/0);
  const ExpertGuess guess[] = {{{1, 1}, 0.8f}};
  cache_->Prefetch(guess);
  EXPECT_EQ(control_.reads(), 0);
}

TEST_F(ExpertCacheTest, AWrongGuessCountsAsWasteWhenItLeaves) {
  Open(1);
  const ExpertGuess guess[] = {{{1, 3}, 0.9f}};
  cache_->Prefetch(guess);
  EXPECT_THAT(All({2}, 1), ElementsAre(2));
  EXPECT_EQ(stats().speculative_wasted, 1u);
  EXPECT_EQ(stats().speculative_wasted_bytes, kSlotBytes);
}

TEST_F(ExpertCacheTest, QueuedGuessesTakeNoSlotFromAnyone) {
  Open(2, 1, 1);
  All({0, 3});
  control_.Hold({1, 1});
  const ExpertGuess guesses[] = {{{1, 1}, 0.8f}, {{1, 2}, 0.7f}};
  cache_->Prefetch(guesses);
  control_.WaitForReads(3);
  EXPECT_EQ(stats().evictions, 1u) << "for the one that is being read";
  control_.LetGo({1, 1});
}

TEST_F(ExpertCacheTest, NewGuessesReplaceThoseThatWait) {
  Open(8, 8, /*speculative_reads=*/1);
  control_.Hold({1, 1});
  const ExpertGuess old_ones[] = {{{1, 1}, 0.8f}, {{1, 2}, 0.7f}};
  cache_->Prefetch(old_ones);
  const ExpertGuess new_ones[] = {{{1, 5}, 0.9f}};
  cache_->Prefetch(new_ones);
  control_.LetGo({1, 1});
  control_.WaitForReads(2);
  EXPECT_THAT(control_.begun(), ElementsAre(ExpertKey{1, 1}, ExpertKey{1, 5}));
}

TEST_F(ExpertCacheTest, UnlikelyGuessesAreNotRead) {
  Open(4);
  const ExpertGuess guesses[] = {{{1, 1}, 0.6f}, {{1, 2}, 0.4f}};
  cache_->Prefetch(guesses);
  EXPECT_THAT(control_.begun(), ElementsAre(ExpertKey{1, 1}));
}

TEST_F(ExpertCacheTest, NothingIsGuessedWhereAllFits) {
  Open(8);
  EXPECT_TRUE(cache_->WantsGuesses());
  cache_->SetCapacity(16 * kSlotBytes);
  EXPECT_FALSE(cache_->WantsGuesses());
}

TEST_F(ExpertCacheTest, TheReportSaysWhatChanceAGuessMustHave) {
  Open(4);
  EXPECT_EQ(stats().prefetch.least_chance, PrefetchGovernor::kNever);
  cache_->EndStep({.decode_rows = 1, .seconds = 1e-3});
  EXPECT_EQ(stats().prefetch.least_chance, 0.5f);
  cache_->SetCapacity(16 * kSlotBytes);
  cache_->EndStep({.decode_rows = 1, .seconds = 1e-3});
  EXPECT_EQ(stats().prefetch.least_chance, PrefetchGovernor::kNever) << "all fits";
}

TEST_F(ExpertCacheTest, APredictorIsAskedAfterEachRequest) {
  // Each time, layer 1 follows layer 0 with the same experts.
  auto cache =
      ExpertCache::Create({.capacity_bytes = 4 * kSlotBytes, .govern_prefetch = false}, &store_,
                          control_.NewReader(1), NewLruPolicy(), NewTransitionPredictor({2, 8}));
  ASSERT_TRUE(cache.ok()) << cache.status();
  cache_ = *std::move(cache);
  for (int round = 0; round < 20; ++round) {
    const int other = round % 2 * 2;
    All({other}, 0);
    All({other + 1}, 1);
    All({4, 5, 6, 7}, round % 2);  // out with them
  }
  EXPECT_GT(stats().speculative_hits + stats().speculative_late, 5u);
}

TEST_F(ExpertCacheTest, LessCapacityLetsExpertsLeaveAtOnce) {
  Open(4);
  All({0, 1, 2, 3});
  cache_->SetCapacity(2 * kSlotBytes);
  EXPECT_EQ(stats().resident_bytes, 2 * kSlotBytes);
  EXPECT_EQ(stats().capacity_bytes, 2 * kSlotBytes);
  All({2, 3});
  EXPECT_EQ(stats().hits, 2u) << "the least recently used left";
  cache_->SetCapacity(4 * kSlotBytes);
  All({4, 5});
  EXPECT_EQ(stats().resident_bytes, 4 * kSlotBytes);
}

TEST_F(ExpertCacheTest, ExpertsInUseLeaveWhenTheyAreReleased) {
  Open(4);
  All({0, 1, 2});
  {
    ExpertCache::Acquisition acquisition = Acquire({0, 1, 2, 5});
    EXPECT_THAT(Next(&acquisition), testing::Contains(0));
    cache_->SetCapacity(0);
    EXPECT_GE(stats().resident_bytes, 3 * kSlotBytes);
    while (!Next(&acquisition).empty()) {
    }
  }
  EXPECT_LE(stats().resident_bytes, kSlotBytes);
  EXPECT_EQ(stats().capacity_bytes, kSlotBytes) << "one slot stays";
  EXPECT_THAT(All({1, 2, 3}), UnorderedElementsAre(1, 2, 3));
}

TEST(ExpertCacheCreateTest, RefusesWhatCannotWork) {
  const auto create = [](const FakeStore& store, uint64_t capacity, int workers) {
    ReadControl control(&store);
    return ExpertCache::Create({.capacity_bytes = capacity, .workers = workers}, &store,
                               control.NewReader(), NewLruPolicy())
        .status()
        .code();
  };
  const FakeStore store({{4, kSlotBytes}, {4, kSlotBytes / 2}});
  EXPECT_EQ(create(store, kSlotBytes, 1), absl::StatusCode::kOk);
  EXPECT_EQ(create(store, kSlotBytes - 1, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create(store, kSlotBytes, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create(FakeStore({}), kSlotBytes, 1), absl::StatusCode::kInvalidArgument);
  // 2^50 bytes a slot.
  EXPECT_EQ(create(FakeStore({{1 << 12, size_t{1} << 50}}), UINT64_MAX, 1),
            absl::StatusCode::kResourceExhausted);
}

class ExpertCacheStressTest : public ::testing::TestWithParam<int> {};

TEST_P(ExpertCacheStressTest, EveryExpertComesOnceWithItsBytes) {
  std::mt19937 random(GetParam());
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  const FakeStore store({{16, 700}, {5, 1000}, {12, 600, true}});
  ReadControl control(&store);
  const uint64_t slots = 1 + below(20);
  auto cache = ExpertCache::Create({.capacity_bytes = slots * kSlotBytes, .workers = 1 + below(3)},
                                   &store, control.NewReader(1 + below(8)), NewLruPolicy());
  ASSERT_TRUE(cache.ok()) << cache.status();

  std::atomic<bool> done{false};
  std::thread watcher([&] {
    while (!done) {
      const ExpertCacheStats stats = (*cache)->stats();
      EXPECT_LE(stats.resident_bytes, stats.model_bytes);
      EXPECT_LE(stats.pinned_slots, 20);
      std::this_thread::yield();
    }
  });
  uint64_t asked = 0;
  std::set<std::pair<int, int>> broken_once;
  for (int i = 0; i < 300; ++i) {
    const StressRound round(store, random);
    asked += round.experts.size();
    const ExpertKey broken{round.layer, below(store.num_experts(round.layer))};
    if (below(4) == 0) {
      control.Fail(broken);
      broken_once.emplace(broken.layer, broken.expert);
    }
    if (below(3) == 0) (*cache)->SetCapacity((1 + below(20)) * kSlotBytes);
    // A read that failed may have begun in a round that was left early.
    round.Run(**cache, store, [&](ExpertKey key) {
      return broken_once.contains({key.layer, key.expert});
    });
    control.Fail(broken, false);
  }
  done = true;
  watcher.join();
  const ExpertCacheStats stats = (*cache)->stats();
  EXPECT_EQ(stats.hits + stats.misses, asked);
  EXPECT_EQ(stats.pinned_slots, 0);
}

INSTANTIATE_TEST_SUITE_P(Seeds, ExpertCacheStressTest, ::testing::Range(1, 13));

}  // namespace
}  // namespace hostler
