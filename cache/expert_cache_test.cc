#include "cache/expert_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "cache/count_allocations.h"
#include "cache/fake_store.h"

namespace hostler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr size_t kSlotBytes = 3000;

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

  void Open(int slots, int io_threads = 4) {
    auto cache =
        ExpertCache::Create({slots * kSlotBytes, io_threads}, &store_, control_.NewReader(),
                            std::make_unique<WatchedPolicy>(&watch_));
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }

  ExpertCache::Acquisition Acquire(const std::vector<int>& experts, int layer = 0) {
    layer_ = layer;
    return cache_->Acquire(layer, experts);
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
  EXPECT_EQ(ready[0].status, absl::UnavailableError("the disk failed"));
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
  control_.WaitForReads(2);  // before any Next()
  std::vector<int> all = Next(&acquisition);
  if (all.size() < 2) all.push_back(Next(&acquisition).front());
  EXPECT_THAT(all, ElementsAre(-3, 1));
}

TEST_F(ExpertCacheTest, LeavingEarlyDropsQueuedReadsAndKeepsThoseInFlight) {
  Open(4, 1);
  control_.Hold({0, 0});
  auto acquisition = std::make_unique<ExpertCache::Acquisition>(Acquire({0, 1, 2}));
  control_.WaitForReads(1);
  std::thread leaver([&] { acquisition.reset(); });
  watch_.WaitForErased(2);
  EXPECT_EQ(stats().pinned_slots, 0);
  control_.LetGo({0, 0});
  leaver.join();
  EXPECT_EQ(control_.reads(), 1);
  EXPECT_EQ(stats().resident_bytes, kSlotBytes);
  EXPECT_EQ(stats().pinned_slots, 0);
  EXPECT_THAT(All({0, 1}), UnorderedElementsAre(0, 1));
  EXPECT_EQ(stats().hits, 1u);
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
  EXPECT_GE(stats().read_errors, 1u);
  EXPECT_THAT(All({1}), ElementsAre(1));
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
      ExpertCache::Acquisition acquisition = cache_->Acquire(0, experts);
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
  // A small plain layer and a large decoded one share the slots.
  DecodedExpertCacheTest() : ExpertCacheTest({{4, 900}, {8, kSlotBytes, true}}) {}
};

TEST_F(DecodedExpertCacheTest, StoredBytesAreDecodedIntoTheSlot) {
  Open(2);
  EXPECT_THAT(All({0, 1, 2, 3, 4}, 1), UnorderedElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(All({3, 0}, 0), UnorderedElementsAre(3, 0));
  EXPECT_EQ(stats().read_bytes, 5 * kSlotBytes / 2 + 2 * 900);
  EXPECT_EQ(stats().resident_bytes, 2 * kSlotBytes);
  EXPECT_EQ(stats().model_bytes, 4 * 900 + 8 * kSlotBytes);
}

TEST_F(DecodedExpertCacheTest, BytesThatCannotBeDecodedAreAFailedRead) {
  Open(2);
  store_.undecodable = {1, 3};
  EXPECT_THAT(All({3, 4}, 1), UnorderedElementsAre(-3, 4));
  EXPECT_EQ(stats().read_errors, 1u);
}

TEST_F(DecodedExpertCacheTest, BytesThatFailTheStoresCheckAreAFailedRead) {
  Open(2);
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

TEST(ExpertCacheCreateTest, RefusesWhatCannotWork) {
  const auto create = [](const FakeStore& store, uint64_t capacity, int io_threads) {
    ReadControl control(&store);
    return ExpertCache::Create({capacity, io_threads}, &store, control.NewReader(), NewLruPolicy())
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
  auto cache = ExpertCache::Create({slots * 1000, 1 + below(4)}, &store, control.NewReader(),
                                   NewLruPolicy());
  ASSERT_TRUE(cache.ok()) << cache.status();

  std::atomic<bool> done{false};
  std::thread watcher([&] {
    while (!done) {
      const ExpertCacheStats stats = (*cache)->stats();
      EXPECT_LE(stats.resident_bytes, stats.capacity_bytes);
      EXPECT_LE(stats.pinned_slots, slots);
      std::this_thread::yield();
    }
  });
  uint64_t asked = 0;
  for (int round = 0; round < 300; ++round) {
    const int layer = below(store.num_layers());
    std::vector<int> experts(store.num_experts(layer));
    for (int i = 0; i < experts.size(); ++i) experts[i] = i;
    std::shuffle(experts.begin(), experts.end(), random);
    experts.resize(below(static_cast<int>(experts.size()) + 1));
    asked += experts.size();
    const ExpertKey broken{layer, below(store.num_experts(layer))};
    if (below(4) == 0) control.Fail(broken);
    const int leave_after = below(5) == 0 ? below(4) : 1000;

    ExpertCache::Acquisition acquisition = (*cache)->Acquire(layer, experts);
    std::multiset<int> delivered;
    for (int call = 0; call < leave_after; ++call) {
      const std::span<const AcquiredExpert> ready = acquisition.Next();
      if (ready.empty()) {
        EXPECT_EQ(delivered, std::multiset<int>(experts.begin(), experts.end()));
        break;
      }
      for (const AcquiredExpert& expert : ready) {
        delivered.insert(expert.expert);
        if (expert.data == nullptr) {
          EXPECT_EQ((ExpertKey{layer, expert.expert}), broken);
        } else {
          EXPECT_TRUE(store.Matches({layer, expert.expert}, expert.data));
        }
      }
    }
    for (int expert : delivered) EXPECT_EQ(delivered.count(expert), 1u);
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
