#include "cache/prefetch_governor.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>

namespace hostler {
namespace {

constexpr float kNever = PrefetchGovernor::kNever;

// What a step takes that reads guesses of `least_chance` and more.
using StepTime = std::function<double(float least_chance)>;

struct Outcome {
  double seconds = 0;
  double seconds_without = 0;  // had nothing been read ahead
  int guessing_steps = 0;
};

// Steps of one row whose times vary by `noise` from step to step.
Outcome Play(PrefetchGovernor* governor, int steps, const StepTime& time, double noise = 0.05) {
  std::mt19937 random(7);
  std::normal_distribution<double> varied(1, noise);
  Outcome run;
  for (int i = 0; i < steps; ++i) {
    const float chance = governor->least_chance();
    const double factor = std::max(0.2, varied(random));
    const double seconds = time(chance) * factor;
    run.seconds += seconds;
    run.seconds_without += time(kNever) * factor;
    run.guessing_steps += chance <= 1;
    governor->OnStep({1, 0, seconds}, /*misses=*/5);
  }
  return run;
}

TEST(PrefetchGovernorTest, KeepsReadingAheadThatPays) {
  PrefetchGovernor governor;
  const StepTime time = [](float chance) { return chance > 1 ? 1.0 : 0.85; };
  Play(&governor, 2000, time);
  const Outcome run = Play(&governor, 2000, time);
  EXPECT_LT(governor.report().least_chance, 1);
  EXPECT_LT(run.seconds, 0.87 * run.seconds_without);
}

TEST(PrefetchGovernorTest, TurnsItOffWhereItCosts) {
  for (const double cost : {1.02, 1.1, 1.5}) {
    PrefetchGovernor governor;
    const StepTime time = [cost](float chance) { return chance > 1 ? 1.0 : cost; };
    const Outcome first = Play(&governor, 512, time);
    EXPECT_EQ(governor.report().least_chance, kNever) << cost;
    EXPECT_LT(first.seconds, 1.06 * first.seconds_without) << cost;
    const Outcome later = Play(&governor, 10000, time);
    EXPECT_LT(later.seconds, 1.01 * later.seconds_without) << cost;
  }
}

TEST(PrefetchGovernorTest, WhatMakesNoDifferenceIsNotRead) {
  PrefetchGovernor governor;
  Play(&governor, 5000, [](float) { return 1.0; });
  EXPECT_EQ(governor.report().least_chance, kNever);
}

TEST(PrefetchGovernorTest, FindsHowLikelyAGuessMustBe) {
  PrefetchGovernor governor;
  Play(&governor, 20000, [](float chance) {
    if (chance > 1) return 1.0;
    if (chance > 0.7) return 0.95;
    if (chance > 0.4) return 0.85;
    return 1.2;
  });
  EXPECT_EQ(governor.report().least_chance, 0.5f);
}

TEST(PrefetchGovernorTest, FollowsAWorkloadThatChanges) {
  PrefetchGovernor governor;
  const auto costly = [](float chance) { return chance > 1 ? 1.0 : 1.2; };
  const auto useful = [](float chance) { return chance > 1 ? 1.0 : 0.8; };
  Play(&governor, 500, costly);
  EXPECT_EQ(governor.report().least_chance, kNever);
  Play(&governor, 3000, useful);
  EXPECT_LT(governor.report().least_chance, 1);
  Play(&governor, 3000, costly);
  EXPECT_EQ(governor.report().least_chance, kNever);
}

TEST(PrefetchGovernorTest, NothingIsReadAheadWhereNothingMisses) {
  PrefetchGovernor governor;
  EXPECT_LT(governor.least_chance(), 1);
  for (int i = 0; i < 20; ++i) governor.OnStep({1, 0, 1.0}, 0);
  EXPECT_EQ(governor.least_chance(), kNever);
  governor.OnStep({1, 0, 1.0}, 1);
  EXPECT_LT(governor.least_chance(), 1);
}

TEST(PrefetchGovernorTest, PromptsAreNoEvidence) {
  PrefetchGovernor governor;
  for (int i = 0; i < 5000; ++i) governor.OnStep({3, 64, 1.0}, 5);
  EXPECT_EQ(governor.report().trials, 0);
}

TEST(PrefetchGovernorTest, BatchesOfOtherSizesAreNotCompared) {
  PrefetchGovernor governor;
  for (int i = 0; i < 5000; ++i) governor.OnStep({1 + i % 7, 0, 1.0 + i % 7}, 5);
  EXPECT_EQ(governor.report().trials, 0);
}

}  // namespace
}  // namespace hostler
