#include "cache/hybrid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace hostler {
namespace {

constexpr uint64_t kBytes = 1'000'000;

// Whether the host computes each of some experts, named by their place.
std::vector<bool> Plan(HybridPlanner& planner, const std::vector<int>& rows) {
  std::vector<HybridPlanner::Missing> missing;
  for (int e = 0; e < int(rows.size()); ++e) missing.push_back({e, rows[e], kBytes});
  planner.Plan(missing);
  std::vector<bool> on_host(rows.size());
  for (const HybridPlanner::Missing& expert : missing) on_host[expert.expert] = expert.on_host;
  return on_host;
}

// Says often enough that a copy takes so long, and the host with a row.
HybridPlanner With(double copy, double host_row) {
  HybridPlanner planner(Hybrid::kAuto);
  for (int i = 0; i < 200; ++i) {
    planner.OnCopy(kBytes, copy);
    for (int rows = 1; rows <= 256; rows *= 2) planner.OnHost(rows, kBytes, host_row * rows);
  }
  return planner;
}

using Choice = std::vector<bool>;

TEST(HybridTest, OffAndAlwaysAskNobody) {
  HybridPlanner off(Hybrid::kOff), always(Hybrid::kAlways);
  EXPECT_EQ(Plan(off, {1, 1}), Choice({false, false}));
  EXPECT_EQ(Plan(always, {500, 1}), Choice({true, true}));
}

TEST(HybridTest, OneExpertGoesWhereItIsFaster) {
  HybridPlanner slow_link = With(2e-3, 1e-3), slow_host = With(1e-3, 2e-3);
  EXPECT_EQ(Plan(slow_link, {1}), Choice({true}));
  EXPECT_EQ(Plan(slow_host, {1}), Choice({false}));
}

TEST(HybridTest, ManyRowsAreCopiedAndFewAreComputed) {
  HybridPlanner planner = With(2e-3, 1e-3);
  EXPECT_EQ(Plan(planner, {64, 1, 64, 1}), Choice({false, true, false, true}));
}

// Of ten equal experts a host that is four times as fast takes eight: both end together.
TEST(HybridTest, BothEndTogether) {
  HybridPlanner planner = With(4e-3, 1e-3);
  const std::vector<bool> choice = Plan(planner, std::vector<int>(10, 1));
  EXPECT_EQ(std::count(choice.begin(), choice.end(), true), 8);
}

TEST(HybridTest, PricesAreWhatWasMeasured) {
  HybridPlanner planner = With(4e-3, 1e-3);
  EXPECT_NEAR(planner.CopySeconds(2 * kBytes), 8e-3, 1e-5);
  EXPECT_NEAR(planner.HostSeconds(3, kBytes), 3e-3, 1e-5);
  planner.OnCopy(kBytes, 10);  // one that was held up
  EXPECT_LT(planner.CopySeconds(kBytes), 6e-3);
}

TEST(HybridTest, RowsTogetherHaveAPriceOfTheirOwn) {
  HybridPlanner planner(Hybrid::kAuto);
  planner.OnHost(1, kBytes, 1e-3);
  EXPECT_NEAR(planner.HostSeconds(8, kBytes), 8e-3, 1e-9) << "as if each came alone";
  planner.OnHost(8, kBytes, 2e-3);
  EXPECT_NEAR(planner.HostSeconds(8, kBytes), 2e-3, 1e-9);
  EXPECT_NEAR(planner.HostSeconds(1, kBytes), 1e-3, 1e-9);
}

TEST(HybridTest, WhatLooksDearIsTriedAgainAtLast) {
  HybridPlanner planner = With(1e-3, 20e-3);
  int plans = 0;
  while (!Plan(planner, {1})[0]) ASSERT_LT(++plans, 1000);
  EXPECT_GT(plans, 20);
}

TEST(HybridTest, TheHostWillDoWhereItIsNotMuchSlower) {
  const HybridPlanner planner = With(1e-3, 0.5e-3);
  EXPECT_TRUE(planner.HostWillDo(3, kBytes));
  EXPECT_FALSE(planner.HostWillDo(8, kBytes));
  EXPECT_FALSE(HybridPlanner(Hybrid::kOff).HostWillDo(1, kBytes));
}

TEST(HybridTest, TheSameEventsGiveTheSameChoices) {
  HybridPlanner a = With(3e-3, 1e-3), b = With(3e-3, 1e-3);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(Plan(a, {i % 7 + 1, 2, i % 3 + 1, 9}), Plan(b, {i % 7 + 1, 2, i % 3 + 1, 9}));
    a.OnHost(2, kBytes, i * 1e-4);
    b.OnHost(2, kBytes, i * 1e-4);
  }
}

}  // namespace
}  // namespace hostler
