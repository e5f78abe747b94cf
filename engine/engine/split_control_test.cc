#include "engine/engine/split_control.h"

#include <gtest/gtest.h>

namespace hostler {
namespace {

// Steps until the control moves blocks, or `steps` have passed; the limit then.
int Play(SplitControl* control, SplitControl::Step step, int steps = 2000) {
  for (int i = 0; i < steps; ++i) {
    if (const auto blocks = control->OnStep(step)) return *blocks;
  }
  return step.limit;
}

TEST(SplitControlTest, SpareBlocksGoToExpertsThatMiss) {
  SplitControl control(10, 1000);
  EXPECT_EQ(Play(&control, {400, 100, false, true}), 151);
}

TEST(SplitControlTest, NothingMovesWhereNoExpertMisses) {
  SplitControl control(10, 1000);
  EXPECT_EQ(Play(&control, {400, 100, false, false}), 400);
}

TEST(SplitControlTest, ALittleRoomIsLeftAlone) {
  SplitControl control(10, 1000);
  EXPECT_EQ(Play(&control, {400, 250, false, true}), 400);
}

TEST(SplitControlTest, TheLeastStays) {
  SplitControl control(300, 1000);
  EXPECT_EQ(Play(&control, {1000, 1, false, true}), 300);
}

TEST(SplitControlTest, OneBusyMomentKeepsTheBlocksForAWhile) {
  SplitControl control(10, 1000);
  control.OnStep({400, 390, false, true});
  EXPECT_EQ(Play(&control, {400, 100, false, true}, 1100), 400);
}

TEST(SplitControlTest, BlocksComeBackWhenSequencesWaitForThem) {
  SplitControl control(10, 1000);
  EXPECT_EQ(Play(&control, {400, 400, true, true}), 500);
  EXPECT_EQ(Play(&control, {900, 900, true, true}), 1000);
  EXPECT_EQ(Play(&control, {1000, 1000, true, true}), 1000);
}

TEST(SplitControlTest, ShortForAMomentIsNoReason) {
  SplitControl control(10, 1000);
  for (int i = 0; i < 5000; ++i) {
    EXPECT_FALSE(control.OnStep({400, 399, i % 100 == 0, true}).has_value());
  }
}

}  // namespace
}  // namespace hostler
