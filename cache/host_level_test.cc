// Three tiers: experts come from disk into the host's slots and from there, as copies,
// into those of a tier elsewhere; or the host computes them.
#include "cache/host_level.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <thread>

#include "cache/count_allocations.h"
#include "cache/expert_cache.h"
#include "cache/fake_store.h"
#include "cache/far_tier.h"
#include "cache/stress_round.h"

namespace hostler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr size_t kSlotBytes = 4096;

class HostLevelTest : public ::testing::Test {
 protected:
  explicit HostLevelTest(std::vector<FakeStore::Layer> layers = {{8, kSlotBytes}, {8, kSlotBytes}})
      : store_(std::move(layers)) {}

  void Open(int slots, int host_slots, Hybrid hybrid = Hybrid::kOff, int reads = 4) {
    auto cache = ExpertCache::Create({.capacity_bytes = slots * kSlotBytes,
                                      .govern_prefetch = false,
                                      .new_tier = copies_.Factory(),
                                      .host_bytes = host_slots * kSlotBytes,
                                      .hybrid = hybrid},
                                     &store_, control_.NewReader(reads), NewLruPolicy());
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }

  ExpertCache::Acquisition Acquire(const std::vector<int>& experts, int layer = 0) {
    layer_ = layer;
    return cache_->Acquire({.layer = layer, .experts = experts, .offsets = {}, .chosen = {}});
  }
  // What one Next() returns, checked; failed ones as -expert, those for the host + 100.
  std::vector<int> Next(ExpertCache::Acquisition* acquisition) {
    std::vector<int> experts;
    for (const AcquiredExpert& ready : acquisition->Next()) {
      if (ready.data == nullptr) {
        failure_ = ready.status;
        experts.push_back(-ready.expert);
        continue;
      }
      EXPECT_TRUE(store_.Matches({layer_, ready.expert}, ready.data)) << ready.expert;
      experts.push_back(ready.expert + (ready.on_host ? 100 : 0));
    }
    return experts;
  }
  std::vector<int> All(const std::vector<int>& experts, int layer = 0) {
    ExpertCache::Acquisition acquisition = Acquire(experts, layer);
    std::vector<int> all;
    for (std::vector<int> some = Next(&acquisition); !some.empty(); some = Next(&acquisition)) {
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }
  void WaitUntilIdle() {
    while (stats().reads_in_flight > 0) std::this_thread::yield();
  }
  ExpertCacheStats stats() const { return cache_->stats(); }

  FakeStore store_;
  ReadControl control_{&store_};
  CopyControl copies_;
  std::unique_ptr<ExpertCache> cache_;
  int layer_ = 0;
  absl::Status failure_;
};

TEST_F(HostLevelTest, WhatIsInDramIsCopiedWithoutTheDisk) {
  Open(1, 4);
  for (const int expert : {0, 1, 0, 1}) EXPECT_THAT(All({expert}), ElementsAre(expert));
  EXPECT_EQ(control_.reads(), 2);
  const ExpertCacheStats all = stats();
  EXPECT_EQ(all.misses, 4u);
  EXPECT_EQ(all.reads, 2u);
  EXPECT_EQ(all.read_bytes, 2 * kSlotBytes);
  EXPECT_EQ(all.copies, 4u);
  EXPECT_EQ(all.copied_bytes, 4 * kSlotBytes);
  EXPECT_EQ(all.host.hits, 2u);
  EXPECT_EQ(all.host.misses, 2u);
  EXPECT_EQ(all.host.resident_bytes, 2 * kSlotBytes);
  EXPECT_EQ(all.host.capacity_bytes, 4 * kSlotBytes);
  EXPECT_TRUE(all.on_device);
}

TEST_F(HostLevelTest, WithoutItEverythingIsReadAgain) {
  Open(1, 0);
  for (const int expert : {0, 1, 0}) EXPECT_THAT(All({expert}), ElementsAre(expert));
  EXPECT_EQ(stats().reads, 3u);
  EXPECT_EQ(stats().copies, 3u);
  EXPECT_EQ(stats().host.capacity_bytes, 0u);
}

TEST_F(HostLevelTest, WhatHitsAboveDoesNotKeepItsPlaceBelow) {
  Open(1, 2);
  All({0});
  All({0});
  All({1});
  All({2});  // 0 leaves DRAM, though it was asked for twice
  EXPECT_EQ(stats().host.evictions, 1u);
  All({1});
  EXPECT_EQ(stats().reads, 3u);
  All({0});
  EXPECT_EQ(stats().reads, 4u);
}

TEST_F(HostLevelTest, OneSlotBelowAndAboveServesAnyNumber) {
  Open(1, 1);
  EXPECT_THAT(All({5, 1, 7, 0, 3}), UnorderedElementsAre(5, 1, 7, 0, 3));
}

TEST_F(HostLevelTest, OneSlotBelowIsEnough) {
  Open(3, 1);
  EXPECT_THAT(All({5, 1, 7, 0, 3}), UnorderedElementsAre(5, 1, 7, 0, 3));
}

TEST_F(HostLevelTest, ASlotThatIsCopiedStays) {
  Open(4, 1);
  copies_.Hold(true);
  ExpertCache::Acquisition acquisition = Acquire({0, 1});
  copies_.WaitForCopies(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(control_.reads(), 1);
  copies_.Hold(false);
  std::vector<int> all;
  for (std::vector<int> some = Next(&acquisition); !some.empty(); some = Next(&acquisition)) {
    all.insert(all.end(), some.begin(), some.end());
  }
  EXPECT_THAT(all, UnorderedElementsAre(0, 1));
}

TEST_F(HostLevelTest, ResidentOnesAreReadyWhileOthersAreCopied) {
  Open(2, 4);
  All({0});
  All({1}, 1);
  copies_.Hold(true);
  ExpertCache::Acquisition acquisition = Acquire({3, 0});
  EXPECT_THAT(Next(&acquisition), ElementsAre(0));
  copies_.Hold(false);
  EXPECT_THAT(Next(&acquisition), ElementsAre(3));
}

TEST_F(HostLevelTest, AFailedCopyFailsItsExpertWhichStaysBelow) {
  Open(2, 4);
  copies_.FailNext(1);
  EXPECT_THAT(All({3}), ElementsAre(-3));
  EXPECT_THAT(std::string(failure_.message()), ::testing::HasSubstr("layer 0, expert 3"));
  EXPECT_THAT(All({3}), ElementsAre(3));
  EXPECT_EQ(stats().reads, 1u);
  EXPECT_EQ(stats().read_errors, 1u);
}

TEST_F(HostLevelTest, ReadsThatFailAreBegunAgain) {
  Open(2, 2);
  control_.Inject({0, 3}, ReadControl::Fault::kError, 2);
  control_.Inject({0, 4}, ReadControl::Fault::kFlippedByte, 1);
  EXPECT_THAT(All({3, 4}), UnorderedElementsAre(3, 4));
  EXPECT_EQ(stats().read_retries, 3u);
  control_.Fail({0, 5});
  EXPECT_THAT(All({5, 6}), UnorderedElementsAre(-5, 6));
}

TEST_F(HostLevelTest, AGuessIsCopiedAndSomeoneWhoWaitsHurriesIt) {
  Open(4, 4);
  copies_.Hold(true);
  const ExpertGuess guess{.key = {1, 2}, .chance = 1};
  cache_->Prefetch({&guess, 1});
  copies_.WaitForCopies(1);
  ExpertCache::Acquisition acquisition = Acquire({2}, 1);
  copies_.WaitForDemands(1);
  copies_.Hold(false);
  EXPECT_THAT(Next(&acquisition), ElementsAre(2));
  EXPECT_EQ(stats().speculative_late, 1u);
  EXPECT_EQ(stats().reads, 1u);
}

TEST_F(HostLevelTest, IdleCopiesLeaveAWorkerForWhoWaits) {
  Open(8, 8);
  copies_.Hold(true);
  const std::vector<ExpertGuess> guesses = {{.key = {1, 2}, .chance = 1},
                                            {.key = {1, 3}, .chance = 1}};
  const std::vector<ExpertKey> popular = {{1, 4}, {1, 5}};
  cache_->Prefetch(guesses);
  copies_.WaitForCopies(2);
  cache_->Preload({}, popular);
  copies_.WaitForCopies(4);
  ExpertCache::Acquisition acquisition = Acquire({0});
  copies_.WaitForDemands(1);
  copies_.Hold(false);
  EXPECT_THAT(Next(&acquisition), ElementsAre(0));
}

TEST_F(HostLevelTest, PreloadedOnesAreThere) {
  Open(3, 8);
  const std::vector<ExpertKey> popular = {{0, 1}, {0, 2}, {1, 3}, {1, 4}};
  cache_->Preload({}, popular);
  while (stats().resident_bytes < 3 * kSlotBytes) std::this_thread::yield();
  EXPECT_THAT(All({1, 2}), UnorderedElementsAre(1, 2));
  EXPECT_EQ(stats().hits, 2u);
  EXPECT_EQ(stats().preload_reads, 3u);
}

TEST_F(HostLevelTest, CapacityMovesAboveWhileWhatLeavesIsStillBelow) {
  Open(4, 8);
  All({0, 1, 2, 3});
  cache_->SetCapacity(kSlotBytes);
  EXPECT_EQ(stats().resident_bytes, kSlotBytes);
  EXPECT_THAT(All({0, 1, 2, 3}), UnorderedElementsAre(0, 1, 2, 3));
  EXPECT_EQ(stats().reads, 4u);
}

class SteadyHostLevelTest : public HostLevelTest, public ::testing::WithParamInterface<Hybrid> {};

TEST_P(SteadyHostLevelTest, TheSteadyStateAllocatesNothing) {
  Open(2, 3, GetParam());
  const std::vector<int> requests[] = {{0, 1, 2, 3}, {4, 5}, {6, 0, 7, 1, 2}};
  const auto run = [&] {
    for (const std::vector<int>& experts : requests) {
      ExpertCache::Acquisition acquisition =
          cache_->Acquire({.layer = 0, .experts = experts, .offsets = {}, .chosen = {}});
      while (!acquisition.Next().empty()) {
      }
    }
  };
  for (int i = 0; i < 3; ++i) run();
  WaitUntilIdle();
  const int before = CountAllocations();
  for (int i = 0; i < 3; ++i) run();
  EXPECT_EQ(CountAllocations(), before);
}

INSTANTIATE_TEST_SUITE_P(Hybrids, SteadyHostLevelTest,
                         ::testing::Values(Hybrid::kOff, Hybrid::kAlways, Hybrid::kAuto));

TEST_F(HostLevelTest, TheHostGetsWhatIsMissing) {
  Open(2, 8, Hybrid::kAlways);
  EXPECT_THAT(All({0, 1, 2}), UnorderedElementsAre(100, 101, 102));
  // They are copied in when nobody waits.
  while (stats().copies < 3) std::this_thread::yield();
  EXPECT_EQ(stats().promotions, 3u);
  EXPECT_EQ(stats().reads, 3u);
  const std::vector<int> again = All({0, 1, 2});
  EXPECT_EQ(std::count_if(again.begin(), again.end(), [](int e) { return e < 100; }), 2);
  EXPECT_EQ(stats().reads, 3u);
  EXPECT_EQ(stats().hits, 2u);
}

TEST_F(HostLevelTest, OneSlotBelowIsEnoughForTheHost) {
  Open(1, 1, Hybrid::kAlways);
  EXPECT_THAT(All({5, 1, 7, 0}), UnorderedElementsAre(105, 101, 107, 100));
}

TEST_F(HostLevelTest, WhatTheHostComputesWithStays) {
  Open(4, 1, Hybrid::kAlways);
  ExpertCache::Acquisition acquisition = Acquire({0, 1});
  const std::span<const AcquiredExpert> first = acquisition.Next();
  ASSERT_EQ(first.size(), 1u);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_TRUE(store_.Matches({0, first[0].expert}, first[0].data));
  EXPECT_EQ(control_.reads(), 1);
  EXPECT_EQ(Next(&acquisition).size(), 1u);
}

TEST_F(HostLevelTest, FailedReadsFailTheHostsExperts) {
  Open(2, 4, Hybrid::kAlways);
  control_.Inject({0, 3}, ReadControl::Fault::kError, 2);
  control_.Fail({0, 4});
  EXPECT_THAT(All({3, 4}), UnorderedElementsAre(103, -4));
}

TEST_F(HostLevelTest, LeavingEarlyReleasesWhatTheHostHolds) {
  Open(1, 2, Hybrid::kAlways);
  control_.Hold({0, 2});
  {
    ExpertCache::Acquisition acquisition = Acquire({0, 1, 2});
    Next(&acquisition);
  }
  control_.LetGo({0, 2});
  EXPECT_THAT(All({5, 6, 7}, 1), UnorderedElementsAre(105, 106, 107));
}

TEST_F(HostLevelTest, WhatIsMeasuredDecides) {
  Open(1, 8, Hybrid::kAuto);
  for (int expert = 0; expert < 8; ++expert) All({expert});
  const auto tell = [&](double seconds) {
    for (int i = 0; i < 100; ++i) cache_->OnHostWork(0, 1, seconds);
  };
  tell(10);
  EXPECT_THAT(All({2, 3}), UnorderedElementsAre(2, 3));
  tell(1e-12);
  const std::vector<int> cheap = All({4, 5});  // one may be resident
  EXPECT_TRUE(std::any_of(cheap.begin(), cheap.end(), [](int expert) { return expert > 100; }));
  EXPECT_GE(stats().host_experts, 200u);
  EXPECT_GE(stats().host_rows, 200u);
}

// The LRU's newcomers are always worth it; this policy's never.
class StubbornPolicy : public EvictionPolicy {
 public:
  std::string_view name() const override { return "stubborn"; }
  void OnRequest(const ExpertRequest& request) override { lru_->OnRequest(request); }
  void OnInsert(ExpertKey key) override { lru_->OnInsert(key); }
  void OnErase(ExpertKey key) override { lru_->OnErase(key); }
  bool PickVictim(const std::function<bool(ExpertKey)>& evictable, ExpertKey* victim) override {
    return lru_->PickVictim(evictable, victim);
  }
  bool Admits(ExpertKey, ExpertKey) const override { return false; }

 private:
  const std::unique_ptr<EvictionPolicy> lru_ = NewLruPolicy();
};

// A copy that is only a little faster than the host is not worth the expert that would
// have to leave.
TEST_F(HostLevelTest, WhatIsCheapOnTheHostDisplacesNothingBetter) {
  auto cache =
      ExpertCache::Create({.capacity_bytes = kSlotBytes,
                           .new_tier = copies_.Factory(),
                           .host_bytes = 8 * kSlotBytes,
                           .hybrid = Hybrid::kAuto},
                          &store_, control_.NewReader(4), std::make_unique<StubbornPolicy>());
  ASSERT_TRUE(cache.ok()) << cache.status();
  cache_ = *std::move(cache);
  for (int i = 0; i < 100; ++i) cache_->OnHostWork(0, 1, 10);
  EXPECT_THAT(All({0}), ElementsAre(0));
  EXPECT_THAT(All({1}), ElementsAre(1)) << "the host is much slower";
  for (int i = 0; i < 100; ++i) cache_->OnHostWork(0, 1, 1e-12);
  EXPECT_THAT(All({2}), ElementsAre(102));
  WaitUntilIdle();
  EXPECT_THAT(All({1}), ElementsAre(1)) << "and nothing was copied in its place";
  EXPECT_EQ(stats().promotions, 0u);
}

TEST(HostLevelCreateTest, RefusesMemoryForNoExpert) {
  const FakeStore store({{4, 2 * kSlotBytes}});
  ReadControl control(&store);
  CopyControl copies;
  const auto cache = ExpertCache::Create(
      {.capacity_bytes = 2 * kSlotBytes, .new_tier = copies.Factory(), .host_bytes = kSlotBytes},
      &store, control.NewReader(1), NewLruPolicy());
  EXPECT_EQ(cache.status().code(), absl::StatusCode::kInvalidArgument);
}

class HostLevelStressTest : public ::testing::TestWithParam<int> {};

TEST_P(HostLevelStressTest, EveryExpertComesOnceWithItsBytes) {
  std::mt19937 random(GetParam());
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  const FakeStore store({{16, 700}, {5, 1000}, {12, 5000, true}});
  ReadControl control(&store);
  CopyControl copies;
  const Hybrid hybrid = static_cast<Hybrid>(GetParam() % 3);
  auto cache = ExpertCache::Create({.capacity_bytes = (2 + below(20)) * kSlotBytes,
                                    .workers = 1 + below(3),
                                    .new_tier = copies.Factory(),
                                    .host_bytes = (2 + below(30)) * kSlotBytes,
                                    .hybrid = hybrid},
                                   &store, control.NewReader(1 + below(8)), NewLruPolicy());
  ASSERT_TRUE(cache.ok()) << cache.status();
  std::set<std::pair<int, int>> broken_once;
  bool copies_failed = false;
  uint64_t asked = 0;
  for (int round = 0; round < 300; ++round) {
    const StressRound asking(store, random);
    const int layer = asking.layer;
    asked += asking.experts.size();
    const ExpertKey broken{layer, below(store.num_experts(layer))};
    if (below(4) == 0) {
      control.Fail(broken);
      broken_once.emplace(broken.layer, broken.expert);
    }
    if (round > 200 && below(8) == 0) {
      copies.FailNext(1);
      copies_failed = true;
    }
    if (below(3) == 0) (*cache)->SetCapacity((2 + below(20)) * kSlotBytes);
    asking.Run(
        **cache, store,
        [&](ExpertKey key) {
          return copies_failed || broken_once.contains({key.layer, key.expert});
        },
        [&](const AcquiredExpert& expert) {
          if (expert.on_host) (*cache)->OnHostWork(layer, 1, below(100) * 1e-8);
        });
    control.Fail(broken, false);
  }
  const ExpertCacheStats stats = (*cache)->stats();
  EXPECT_EQ(stats.hits + stats.misses, asked);
  EXPECT_EQ(stats.pinned_slots, 0);
  EXPECT_LE(stats.host.resident_bytes, stats.host.capacity_bytes);
  EXPECT_EQ(stats.host_experts > 0, hybrid != Hybrid::kOff);
}

INSTANTIATE_TEST_SUITE_P(Seeds, HostLevelStressTest, ::testing::Range(1, 13));

}  // namespace
}  // namespace hostler
