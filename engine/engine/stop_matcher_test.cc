#include "engine/engine/stop_matcher.h"

#include "gtest/gtest.h"

namespace hostler {
namespace {

TEST(StopMatcherTest, ShowsTextAtOnceWhenNoStopBeginsInIt) {
  StopMatcher matcher({"END"}, false);
  EXPECT_EQ(matcher.Add("hello "), "hello ");
  EXPECT_EQ(matcher.found(), "");
}

TEST(StopMatcherTest, HoldsBackWhatMayBecomeAStop) {
  StopMatcher matcher({"END"}, false);
  EXPECT_EQ(matcher.Add("so E"), "so ");
  EXPECT_EQ(matcher.Add("N"), "");
  EXPECT_EQ(matcher.Add("ough"), "ENough");
}

TEST(StopMatcherTest, EndsBeforeAStopSplitOverPieces) {
  StopMatcher matcher({"END"}, false);
  EXPECT_EQ(matcher.Add("a E"), "a ");
  EXPECT_EQ(matcher.Add("ND and more"), "");
  EXPECT_EQ(matcher.found(), "END");
  EXPECT_EQ(matcher.Add("x"), "");
}

TEST(StopMatcherTest, KeepsTheStopWhenAsked) {
  StopMatcher matcher({"."}, true);
  EXPECT_EQ(matcher.Add("One. Two."), "One.");
}

TEST(StopMatcherTest, TakesTheEarliestOfSeveral) {
  StopMatcher matcher({"zz", "b"}, false);
  EXPECT_EQ(matcher.Add("abzz"), "a");
  EXPECT_EQ(matcher.found(), "b");
}

TEST(StopMatcherTest, FlushGivesBackAnUnfinishedStop) {
  StopMatcher matcher({"aab"}, false);
  EXPECT_EQ(matcher.Add("xaaa"), "xa");
  EXPECT_EQ(matcher.Flush(), "aa");
}

}  // namespace
}  // namespace hostler
