#include <gtest/gtest.h>

#include <vector>

#include "cache/policy.h"

namespace hostler {
namespace {

bool Any(ExpertKey) { return true; }

int Victim(EvictionPolicy* policy, const std::function<bool(ExpertKey)>& evictable = Any) {
  ExpertKey victim;
  return policy->PickVictim(evictable, &victim) ? victim.expert : -1;
}

void Ask(EvictionPolicy* policy, const std::vector<int>& experts, int layer = 0) {
  policy->OnRequest({.layer = layer, .experts = experts, .offsets = {}, .chosen = {}});
}

TEST(LruPolicyTest, NobodyLeavesAnEmptyCache) {
  auto policy = NewLruPolicy();
  EXPECT_EQ(Victim(policy.get()), -1);
  Ask(policy.get(), {1, 2});
  EXPECT_EQ(Victim(policy.get()), -1) << "asked for, but not resident";
}

TEST(LruPolicyTest, TheLeastRecentlyRequestedLeavesFirst) {
  auto policy = NewLruPolicy();
  Ask(policy.get(), {1, 2, 3});
  for (int expert : {3, 2, 1}) policy->OnInsert({0, expert});  // reads end in any order
  EXPECT_EQ(Victim(policy.get()), 1);
  Ask(policy.get(), {1});
  EXPECT_EQ(Victim(policy.get()), 2);
  policy->OnErase({0, 2});
  EXPECT_EQ(Victim(policy.get()), 3);
}

TEST(LruPolicyTest, OnlyEvictableOnesLeave) {
  auto policy = NewLruPolicy();
  Ask(policy.get(), {1, 2});
  policy->OnInsert({0, 1});
  policy->OnInsert({0, 2});
  EXPECT_EQ(Victim(policy.get(), [](ExpertKey key) { return key.expert != 1; }), 2);
  EXPECT_EQ(Victim(policy.get(), [](ExpertKey) { return false; }), -1);
}

TEST(LruPolicyTest, LayersShareOneOrder) {
  auto policy = NewLruPolicy();
  Ask(policy.get(), {7}, 3);
  policy->OnInsert({3, 7});
  Ask(policy.get(), {7});
  policy->OnInsert({0, 7});
  ExpertKey victim;
  ASSERT_TRUE(policy->PickVictim(Any, &victim));
  EXPECT_EQ(victim, (ExpertKey{3, 7}));
}

TEST(LruPolicyTest, AnExpertWhoseReadFailedIsForgotten) {
  auto policy = NewLruPolicy();
  Ask(policy.get(), {1, 2});
  policy->OnInsert({0, 1});
  policy->OnErase({0, 1});
  policy->OnInsert({0, 2});
  EXPECT_EQ(Victim(policy.get()), 2);
  Ask(policy.get(), {1});
  policy->OnInsert({0, 1});
  EXPECT_EQ(Victim(policy.get()), 2);
}

}  // namespace
}  // namespace hostler
