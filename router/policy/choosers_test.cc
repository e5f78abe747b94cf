#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/policy/chooser.h"
#include "router/policy/test_candidates.h"

namespace hostler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class ChoosersTest : public testing::Test {
 protected:
  ChoosersTest() {
    of_.Add("small", 0.5, 0.001, 1);
    of_.Add("middle", 0.7, 0.004, 2);
    of_.Add("large", 0.9, 0.020, 8);
  }

  Choice Choose(Chooser& chooser, const Limits& limits = {}) {
    return chooser.Choose(features_, limits, of_.list);
  }

  TestCandidates of_;
  RouteFeatures features_;
};

TEST_F(ChoosersTest, CostQualityTakesTheCheapestThatReachesTheFloor) {
  const auto chooser = NewCostQuality(std::nullopt);
  const Choice choice = Choose(*chooser, {.min_quality = 0.6});
  EXPECT_THAT(choice.order, ElementsAre(1, 2, 0)) << "then those that reach it, then the rest";
  EXPECT_EQ(choice.rule, "floor");
  EXPECT_THAT(choice.reason, HasSubstr("0.70 >= 0.60"));
}

TEST_F(ChoosersTest, CostQualityTakesTheBestWhenNoneReachesTheFloor) {
  const auto chooser = NewCostQuality(std::nullopt);
  const Choice choice = Choose(*chooser, {.min_quality = 0.95});
  EXPECT_THAT(choice.order, ElementsAre(2, 1, 0));
  EXPECT_EQ(choice.rule, "below_floor");
}

TEST_F(ChoosersTest, CostQualityWeighsQualityAgainstCost) {
  EXPECT_EQ(Choose(*NewCostQuality(0.001)).order.front(), 0);
  EXPECT_EQ(Choose(*NewCostQuality(0.02)).order.front(), 1);
  EXPECT_EQ(Choose(*NewCostQuality(1.0)).order.front(), 2);
  EXPECT_EQ(Choose(*NewCostQuality(0.001), {.min_quality = 0.6}).order.front(), 1)
      << "what is worth most among those that reach the floor";
}

TEST_F(ChoosersTest, CostQualityLeavesOutWhatIsTooLateUnlessAllAre) {
  const auto chooser = NewCostQuality(std::nullopt);
  EXPECT_EQ(Choose(*chooser, {.deadline_s = 3}).order.front(), 1);
  const Choice late = Choose(*chooser, {.deadline_s = 0.5});
  EXPECT_EQ(late.rule, "late");
}

TEST_F(ChoosersTest, BestEffortDegradesAndComesBackWithHysteresis) {
  const auto chooser = NewBestEffort();
  const Limits limits = {.deadline_s = 10};
  of_.list[2].latency_s = 6.9;
  EXPECT_EQ(Choose(*chooser, limits).order.front(), 2);
  of_.list[2].latency_s = 7.1;
  const Choice degraded = Choose(*chooser, limits);
  EXPECT_EQ(degraded.order.front(), 1);
  EXPECT_EQ(degraded.rule, "degraded");
  of_.list[2].latency_s = 4.1;
  EXPECT_EQ(Choose(*chooser, limits).order.front(), 1) << "not back yet";
  of_.list[2].latency_s = 3.9;
  EXPECT_EQ(Choose(*chooser, limits).order.front(), 2);
  of_.list[2].latency_s = 6.9;
  EXPECT_EQ(Choose(*chooser, limits).order.front(), 2) << "stays";
}

TEST_F(ChoosersTest, BestEffortTakesTheFastestWhenNoneIsInTime) {
  const Choice choice = Choose(*NewBestEffort(), {.deadline_s = 0.1});
  EXPECT_THAT(choice.order, ElementsAre(0, 1, 2));
  EXPECT_EQ(choice.rule, "late");
}

TEST_F(ChoosersTest, ACascadeTriesTheCheapestLocalOneFirst) {
  const auto chooser = NewCascade({-0.7, 16});
  const Choice choice = Choose(*chooser);
  EXPECT_THAT(choice.order, ElementsAre(0, 2, 1));
  ASSERT_TRUE(choice.judge.has_value());
  EXPECT_EQ(choice.judge->tokens, 16);
  EXPECT_EQ(Choose(*chooser, {.min_quality = 0.6}).order.front(), 1) << "too poor to be tried";
  features_.n = 2;
  EXPECT_FALSE(Choose(*chooser).judge.has_value()) << "several sequences are not judged";
  EXPECT_EQ(Choose(*chooser).order.front(), 2);
}

TEST_F(ChoosersTest, AffinityKeepsAConversationUnlessLeavingPays) {
  features_.prompt_tokens = 1000;
  const auto chooser = NewAffinity(NewCostQuality(std::nullopt), 0.1);
  EXPECT_EQ(Choose(*chooser).order.front(), 2);
  of_.list[1].cached_tokens = 900;
  EXPECT_EQ(Choose(*chooser).order.front(), 2) << "0.2 better";
  of_.list[1].quality = 0.85;
  const Choice choice = Choose(*chooser);
  EXPECT_EQ(choice.order.front(), 1);
  EXPECT_EQ(choice.rule, "affinity");
  of_.list[1].cached_tokens = 400;
  EXPECT_EQ(Choose(*chooser).order.front(), 2) << "less than half of the prompt";
}

TEST_F(ChoosersTest, TheBanditBeginsWithWhatIsPredicted) {
  BanditOptions options;
  options.explore = 0;
  EXPECT_EQ(Choose(*NewBandit(options)).order.front(), 2);
  options.value_usd = 0.001;
  EXPECT_EQ(Choose(*NewBandit(options)).order.front(), 0);
}

TEST_F(ChoosersTest, TheBanditLearnsThatAPredictionIsWrongAndForgetsIt) {
  BanditOptions options;
  options.explore = 0;
  options.forget = 0.99;
  const auto bandit = NewBandit(options);
  for (int i = 0; i < 200; ++i) {
    const Choice choice = Choose(*bandit);
    bandit->Learn(choice.context, 2, 0.2);
  }
  EXPECT_EQ(Choose(*bandit).order.front(), 1);
  for (int i = 0; i < 2000; ++i) bandit->Learn(Choose(*bandit).context, 1, 0.7);
  EXPECT_EQ(Choose(*bandit).order.front(), 2) << "what was learned long ago has faded";
}

TEST_F(ChoosersTest, TheBanditExplores) {
  const auto bandit = NewBandit({});
  std::set<int> chosen;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    features_.seed = seed;
    chosen.insert(Choose(*bandit).order.front());
  }
  EXPECT_GE(chosen.size(), 2u);
  features_.seed = 7;
  EXPECT_EQ(Choose(*bandit).order, Choose(*bandit).order) << "the same request draws the same";
}

}  // namespace
}  // namespace hostler
