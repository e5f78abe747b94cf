#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "cache/count_allocations.h"
#include "cache/policy.h"

namespace hostler {
namespace {

constexpr PolicyShape kShape{3, 16};

bool Any(ExpertKey) { return true; }

void Ask(EvictionPolicy* policy, int layer, const std::vector<int>& experts) {
  policy->OnRequest({.layer = layer, .experts = experts, .offsets = {}, .chosen = {}});
}

// Every policy that scores experts, LRU too where nothing else is said.
class PolicyTest : public ::testing::TestWithParam<std::string_view> {
 protected:
  std::unique_ptr<EvictionPolicy> New(PolicyShape shape = kShape) {
    return *NewEvictionPolicy(GetParam(), shape);
  }
};

INSTANTIATE_TEST_SUITE_P(All, PolicyTest, ::testing::ValuesIn(EvictionPolicyNames()),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(PolicyTest, NamesResidentsOnly) {
  auto policy = New();
  ExpertKey victim;
  EXPECT_FALSE(policy->PickVictim(Any, &victim));
  Ask(policy.get(), 0, {1, 2});
  EXPECT_FALSE(policy->PickVictim(Any, &victim));
  policy->OnInsert({0, 2});
  ASSERT_TRUE(policy->PickVictim(Any, &victim));
  EXPECT_EQ(victim, (ExpertKey{0, 2}));
  policy->OnErase(victim);
  EXPECT_FALSE(policy->PickVictim(Any, &victim));
}

TEST_P(PolicyTest, KeepsWhatIsUsedAgainAndAgain) {
  auto policy = New();
  for (int token = 0; token < 30; ++token) {
    for (int layer = 0; layer < kShape.layers; ++layer) {
      const int once = 4 + token % 12;
      Ask(policy.get(), layer, {1, once});
      if (token == 0) policy->OnInsert({layer, 1});
      if (token == 24) policy->OnInsert({layer, once});
    }
  }
  for (int i = 0; i < kShape.layers; ++i) {
    ExpertKey victim;
    ASSERT_TRUE(policy->PickVictim(Any, &victim));
    EXPECT_EQ(victim.expert, 4) << "in layer " << victim.layer;
    policy->OnErase(victim);
  }
}

TEST_P(PolicyTest, AsksWhetherAnExpertMayLeave) {
  auto policy = New();
  Ask(policy.get(), 0, {1, 2, 3});
  for (int expert : {1, 2, 3}) policy->OnInsert({0, expert});
  Ask(policy.get(), 1, {1});
  ExpertKey victim;
  ASSERT_TRUE(policy->PickVictim([](ExpertKey key) { return key.expert == 2; }, &victim));
  EXPECT_EQ(victim, (ExpertKey{0, 2}));
  EXPECT_FALSE(policy->PickVictim([](ExpertKey) { return false; }, &victim));
}

TEST_P(PolicyTest, TakesMembersOfTheRunningRequestLast) {
  auto policy = New();
  for (int token = 0; token < 20; ++token) Ask(policy.get(), 0, {1});
  policy->OnInsert({0, 1});
  Ask(policy.get(), 0, {7, 8});
  for (int expert : {7, 8}) policy->OnInsert({0, expert});
  ExpertKey victim;
  ASSERT_TRUE(policy->PickVictim(Any, &victim));
  EXPECT_EQ(victim.expert, 1) << "worth more, but the others are in use";
  policy->OnErase(victim);
  ASSERT_TRUE(policy->PickVictim(Any, &victim)) << "a wave needs the slots of the one before";
  EXPECT_TRUE(victim.expert == 7 || victim.expert == 8);
}

// Random events: the victim is always resident and evictable, and there is one
// whenever anything is; hundreds of rounds go without an allocation.
TEST_P(PolicyTest, NamesAVictimWheneverThereIsOneAndAllocatesNothing) {
  auto policy = New();
  std::mt19937 random(7);
  std::vector<std::vector<uint8_t>> resident(kShape.layers, std::vector<uint8_t>(kShape.experts));
  std::vector<int> all(kShape.experts);
  for (int e = 0; e < kShape.experts; ++e) all[e] = e;
  for (int layer = 0; layer < kShape.layers; ++layer) {
    Ask(policy.get(), layer, all);  // now every expert was named
    for (const int e : all) {
      policy->OnInsert({layer, e});
      policy->OnErase({layer, e});
    }
  }
  int count = 0;
  const std::function<bool(ExpertKey)> evictable = [&](ExpertKey key) {
    return resident[key.layer][key.expert] != 0 && (key.expert + count) % 3 != 0;
  };
  const int before = CountAllocations();
  for (int round = 0; round < 600; ++round) {
    const int layer = round % kShape.layers;
    std::shuffle(all.begin(), all.end(), random);
    const std::span<const int> chosen(all.data(), 4);
    policy->OnRequest({.layer = layer, .experts = chosen, .offsets = {}, .chosen = {}});
    for (const int e : chosen) {
      if (resident[layer][e]) continue;
      resident[layer][e] = 1;
      policy->OnInsert({layer, e});
    }
    ++count;
    bool expected = false;
    for (int l = 0; l < kShape.layers; ++l) {
      for (int e = 0; e < kShape.experts; ++e) expected = expected || evictable({l, e});
    }
    ExpertKey victim;
    ASSERT_EQ(policy->PickVictim(evictable, &victim), expected) << round;
    if (!expected || round % 5 == 0) continue;
    ASSERT_TRUE(evictable(victim)) << round;
    resident[victim.layer][victim.expert] = 0;
    policy->OnErase(victim);
  }
  EXPECT_EQ(CountAllocations(), before);
}

TEST_P(PolicyTest, LearnsFromStepsOfSeveralSequencesFromTheStart) {
  auto policy = New();
  const std::vector<int> offsets = {0, 1, 2};
  for (int step = 0; step < 40; ++step) {
    for (int layer = 0; layer < kShape.layers; ++layer) {
      const std::vector<int> experts = {2 + step % 12, 1};
      policy->OnRequest({layer, experts, offsets, experts, 2});
      if (step == 38) {
        for (const int expert : experts) policy->OnInsert({layer, expert});
      }
    }
  }
  for (int i = 0; i < kShape.layers; ++i) {
    ExpertKey victim;
    ASSERT_TRUE(policy->PickVictim(Any, &victim));
    EXPECT_EQ(victim.expert, 2 + 38 % 12) << "in layer " << victim.layer;
    policy->OnErase(victim);
  }
}

TEST_P(PolicyTest, TakesARequestOfNothing) {
  auto policy = New();
  for (int layer = 0; layer < kShape.layers; ++layer) Ask(policy.get(), layer, {});
  Ask(policy.get(), 0, {1});
  policy->OnInsert({0, 1});
  Ask(policy.get(), 1, {});
  ExpertKey victim;
  EXPECT_TRUE(policy->PickVictim(Any, &victim));
}

TEST_P(PolicyTest, StartsWarmWithWhatWasExported) {
  if (GetParam() == "lru") GTEST_SKIP() << "counts no uses";
  auto first = New();
  for (int token = 0; token < 40; ++token) {
    for (int layer = 0; layer < kShape.layers; ++layer) Ask(first.get(), layer, {1, 2 + token % 8});
  }
  const Popularity popularity = first->ExportPopularity();
  ASSERT_EQ(popularity.rate.size(), size_t(kShape.layers * kShape.experts));
  EXPECT_GT(popularity.rate[1], popularity.rate[2]);
  for (const float rate : popularity.rate) {
    EXPECT_GE(rate, 0);
    EXPECT_LE(rate, 1);
  }
  auto second = New();
  second->ImportPopularity(popularity);
  Ask(second.get(), 0, {15});
  Ask(second.get(), 1, {15});
  Ask(second.get(), 2, {15});
  for (const int expert : {1, 12}) second->OnInsert({0, expert});
  ExpertKey victim;
  ASSERT_TRUE(second->PickVictim(Any, &victim));
  EXPECT_EQ(victim.expert, 12) << "never used, while 1 was used by every token";
}

TEST_P(PolicyTest, AWarmStartCountsInLayersThatAreStillToCome) {
  if (GetParam() == "lru") GTEST_SKIP() << "counts no uses";
  auto policy = New();
  Popularity popularity{kShape.layers, kShape.experts, {}};
  popularity.rate.assign(size_t(kShape.layers * kShape.experts), 0.01f);
  popularity.rate[2 * kShape.experts + 1] = 0.9f;
  policy->ImportPopularity(popularity);
  for (const int expert : {1, 12}) policy->OnInsert({2, expert});
  Ask(policy.get(), 0, {15});
  ExpertKey victim;
  ASSERT_TRUE(policy->PickVictim(Any, &victim));
  EXPECT_EQ(victim.expert, 12);
}

TEST_P(PolicyTest, IgnoresPopularityOfAnotherShape) {
  auto policy = New();
  policy->ImportPopularity({2, 16, std::vector<float>(32, 1.0f)});
  policy->ImportPopularity({3, 16, std::vector<float>(5, 1.0f)});
  Ask(policy.get(), 0, {1});
  policy->OnInsert({0, 1});
  ExpertKey victim;
  EXPECT_TRUE(policy->PickVictim(Any, &victim));
}

TEST_P(PolicyTest, PinnedExpertsNeverLeave) {
  const ExpertKey pinned[] = {{0, 1}, {2, 15}};
  auto policy = NewPinningPolicy(New(), pinned);
  EXPECT_EQ(policy->name(), GetParam());
  Ask(policy.get(), 0, {1, 2});
  policy->OnInsert({0, 1});
  policy->OnInsert({0, 2});
  Ask(policy.get(), 2, {15});
  policy->OnInsert({2, 15});
  ExpertKey victim;
  ASSERT_TRUE(policy->PickVictim(Any, &victim));
  EXPECT_EQ(victim, (ExpertKey{0, 2}));
  policy->OnErase(victim);
  EXPECT_FALSE(policy->PickVictim(Any, &victim));
  EXPECT_TRUE(policy->Admits({0, 1}, {0, 2}));
}

TEST_P(PolicyTest, TakesStepsOfManyTokensAndLayersOfManyShapes) {
  auto policy = New({1, 40});
  std::vector<int> experts(40), chosen, offsets = {0};
  for (int e = 0; e < 40; ++e) experts[e] = e;
  for (int token = 0; token < 600; ++token) {
    for (int i = 0; i < 20; ++i) chosen.push_back((token + i) % 40);
    offsets.push_back(static_cast<int>(chosen.size()));
  }
  for (const int sequences : {1, 600, 1}) {
    policy->OnRequest({0, experts, offsets, chosen, sequences});
    for (const int e : experts) policy->OnInsert({0, e});
    Ask(policy.get(), 0, {3});
  }
  ExpertKey victim;
  ASSERT_TRUE(policy->PickVictim(Any, &victim));
  EXPECT_NE(victim.expert, 3);
}

TEST(EmaPolicyTest, CountsTheTokensOfSeveralSequencesAsOneMomentTogether) {
  auto alone = NewEmaPolicy({1, 8});
  auto batched = NewEmaPolicy({1, 8});
  Ask(alone.get(), 0, {0});
  Ask(batched.get(), 0, {0});
  const std::vector<int> experts = {1, 2}, offsets = {0, 1, 2, 3, 4}, chosen = {1, 1, 1, 2};
  batched->OnRequest({0, experts, offsets, chosen, 4});
  Ask(alone.get(), 0, {1});
  EXPECT_NEAR(batched->ExportPopularity().rate[0], alone->ExportPopularity().rate[0], 2e-3);
  EXPECT_NEAR(batched->ExportPopularity().rate[1], 0.075, 5e-3);
}

TEST(PolicyNamesTest, AnUnknownNameIsAnErrorThatNamesTheOthers) {
  const auto policy = NewEvictionPolicy("fifo", kShape);
  ASSERT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(policy.status().message());
  for (const std::string_view name : EvictionPolicyNames()) {
    EXPECT_NE(message.find(name), message.npos) << message;
  }
  EXPECT_EQ((*NewEvictionPolicy("default", kShape))->name(), EvictionPolicyNames()[0]);
}

TEST(PolicyNamesTest, LruIsNotServedBelowATokensCycle) {
  const ExpertCounts counts{100, 1000};
  EXPECT_EQ(PolicyForBudget("lru", 99, counts), EvictionPolicyNames()[0]);
  EXPECT_EQ(PolicyForBudget("lru", 100, counts), "lru");
  EXPECT_EQ(PolicyForBudget("ema", 1, counts), "ema");
}

TEST(PolicyNamesTest, WhereNobodyEverLeavesTheCheapestServes) {
  EXPECT_EQ(PolicyForBudget("default", 999, {100, 1000}), "default");
  EXPECT_EQ(PolicyForBudget("default", 1000, {100, 1000}), "lru");
}

}  // namespace
}  // namespace hostler
