#include "router/policy/scored_policy.h"

#include "engine/base/status.h"
#include "engine/base/wire_error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// Prompts with "hard" in them are too hard for the small model.
class WordSource : public QualitySource {
 public:
  const std::vector<std::string>& models() const override { return models_; }
  void Predict(const RoutePrompt& prompt, std::span<QualityEstimate> out) const override {
    const bool hard = prompt.text.find("hard") != std::string_view::npos;
    out[0] = {hard ? 0.2 : 0.8, 100};
    out[1] = {0.9, 100};
  }

 private:
  const std::vector<std::string> models_ = {"tiny-1b", "huge-1t"};
};

class ScoredRoutingTest : public testing::Test {
 protected:
  ScoredRoutingTest() {
    options_.targets = {{.target = "small", .quality_as = "tiny-1b"},
                        {.target = "large", .quality_as = "huge-1t"}};
    options_.router_file = "router.bin";
    options_.load =
        [this](const std::string& path) -> absl::StatusOr<std::shared_ptr<const QualitySource>> {
      if (broken_) return absl::DataLossError(path + " is corrupt");
      return std::make_shared<WordSource>();
    };
    options_.limits.min_quality = 0.7;
    targets_ = {{.name = "small", .price = {1, 1}},
                {.name = "large", .price = {10, 10}},
                {.name = "other", .price = {0, 0}}};
  }

  std::unique_ptr<ScoredRoutingPolicy> Make() {
    return std::make_unique<ScoredRoutingPolicy>(options_, NewCostQuality(std::nullopt));
  }

  RouteFeatures Ask(std::string_view text) {
    RouteFeatures features;
    features.prompt.text = text;
    features.prompt_tokens = 100;
    features.wish = wish_;
    return features;
  }

  // Decides, starts and finishes at what the decision expects.
  absl::StatusOr<Decision> Run(ScoredRoutingPolicy* policy, std::string_view text) {
    absl::StatusOr<Decision> decision = policy->Decide(Ask(text), targets_);
    if (!decision.ok()) return decision;
    policy->Started(*decision);
    RouteOutcome outcome;
    outcome.target = decision->target;
    outcome.cost_usd = decision->Find(decision->target)->cost_usd;
    policy->Finished(*decision, outcome);
    spent_ += outcome.cost_usd;
    return decision;
  }

  ScoredRoutingOptions options_;
  std::vector<TargetSnapshot> targets_;
  RouteWish wish_;
  bool broken_ = false;
  double spent_ = 0;
};

TEST_F(ScoredRoutingTest, SendsEachPromptToTheCheapestThatIsGoodEnough) {
  const auto policy = Make();
  const auto easy = policy->Decide(Ask("easy"), targets_);
  ASSERT_TRUE(easy.ok());
  EXPECT_EQ(easy->target, "small");
  EXPECT_THAT(easy->fallbacks, ElementsAre("large"));
  EXPECT_EQ(easy->policy, "cost_quality");
  EXPECT_EQ(easy->version, 1u);
  ASSERT_EQ(easy->candidates.size(), 2u) << "targets that are not the virtual model's stay out";
  EXPECT_DOUBLE_EQ(easy->candidates[1].cost_usd, 200 * 10 / 1e6);
  EXPECT_EQ(policy->Decide(Ask("hard"), targets_)->target, "large");
}

TEST_F(ScoredRoutingTest, ARequestMayAskForMore) {
  const auto policy = Make();
  wish_.min_quality = 0.85;
  EXPECT_EQ(policy->Decide(Ask("easy"), targets_)->target, "large");
  wish_.min_quality = 0.1;
  EXPECT_EQ(policy->Decide(Ask("hard"), targets_)->target, "large") << "but not for less";
  wish_.max_cost = 1e-9;
  const auto refused = policy->Decide(Ask("easy"), targets_);
  EXPECT_EQ(ErrorField(refused.status()), "hostler.max_cost");
}

TEST_F(ScoredRoutingTest, LeavesOutWhatCannotAnswerAndSaysWhy) {
  const auto policy = Make();
  targets_[0].available = false;
  const auto decision = policy->Decide(Ask("easy"), targets_);
  EXPECT_EQ(decision->target, "large");
  EXPECT_EQ(decision->Find("small")->left_out, "not available");
  targets_[1].max_context = 50;
  const auto none = policy->Decide(Ask("easy"), targets_);
  EXPECT_TRUE(absl::IsUnavailable(none.status()));
  EXPECT_THAT(Message(none.status()), HasSubstr("large: its context is too short"));
}

TEST_F(ScoredRoutingTest, LatencyFollowsQueueAndMeasuredSpeed) {
  targets_[0].speed = {.requests = 5,
                       .base_s = 0.1,
                       .prompt_token_s = 0.001,
                       .decode_token_s = 0.01,
                       .service_s = 2,
                       .output_tokens = 10};
  targets_[0].running = 4;
  targets_[0].waiting = 7;
  const auto decision = Make()->Decide(Ask("easy"), targets_);
  const CandidateReport* small = decision->Find("small");
  // The predictor's 100 tokens: eight have to leave first, of four at a time that take 2 s.
  EXPECT_NEAR(small->first_token_s, 8 * 2. / 4 + 0.1 + 100 * 0.001, 1e-9);
  EXPECT_NEAR(small->latency_s, small->first_token_s + 99 * 0.01, 1e-9);
  EXPECT_TRUE(std::isnan(decision->Find("large")->latency_s)) << "nothing is known of it";
}

TEST_F(ScoredRoutingTest, AConversationIsKnownToBeCachedWhereItWas) {
  const auto policy = Make();
  RouteFeatures features = Ask("easy");
  features.prefixes = {{11, 40}, {12, 80}};
  policy->Started(*policy->Decide(features, targets_));
  features.prefixes = {{11, 40}, {12, 80}, {13, 100}};
  const auto next = policy->Decide(features, targets_);
  EXPECT_EQ(next->Find("small")->cached_tokens, 80);
  EXPECT_EQ(next->Find("large")->cached_tokens, 0);
}

TEST_F(ScoredRoutingTest, ABrokenRouterFileLeavesTheStaticPolicyToServe) {
  broken_ = true;
  const auto policy = Make();
  const auto decision = policy->Decide(Ask("hard"), targets_);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->target, "small") << "the cheapest of its targets";
  EXPECT_EQ(decision->policy, "static");
  EXPECT_EQ(decision->rule, "no_router_file");
  EXPECT_TRUE(absl::IsDataLoss(policy->quality()->status()));
}

TEST_F(ScoredRoutingTest, ReloadsRollBackAndSurviveABrokenFile) {
  const auto policy = Make();
  EXPECT_TRUE(absl::IsFailedPrecondition(policy->quality()->Rollback().status()));
  EXPECT_EQ(*policy->quality()->Load("new.bin"), 2u);
  EXPECT_EQ(policy->Decide(Ask("easy"), targets_)->version, 2u);
  broken_ = true;
  EXPECT_FALSE(policy->quality()->Load("bad.bin").ok());
  EXPECT_FALSE(policy->quality()->status().ok());
  EXPECT_EQ(policy->Decide(Ask("easy"), targets_)->version, 2u);
  EXPECT_EQ(*policy->quality()->Rollback(), 1u);
  EXPECT_EQ(policy->quality()->current()->path, "router.bin");
}

TEST_F(ScoredRoutingTest, ARouterFileThatLacksAModelIsRefused) {
  options_.targets[1].quality_as = "unheard-of";
  const auto policy = Make();
  EXPECT_THAT(Message(policy->quality()->status()), HasSubstr("does not know \"unheard-of\""));
  options_.targets[1].quality = 0.6;
  EXPECT_EQ(Make()->Decide(Ask("hard"), targets_)->Find("large")->quality, 0.6);
}

// Adversarial prompts, all of which look hard.
TEST_F(ScoredRoutingTest, APayersBudgetBoundsWhatHardPromptsCanCost) {
  options_.payer_day_usd = 0.0501;  // 25 answers of large
  const auto policy = Make();
  wish_.payer = 77;
  int large = 0;
  std::string last_rule;
  for (int i = 0; i < 200; ++i) {
    const auto decision = Run(policy.get(), "hard hard hard");
    ASSERT_TRUE(decision.ok());
    large += decision->target == "large";
    last_rule = decision->rule;
  }
  EXPECT_EQ(large, 25);
  EXPECT_EQ(last_rule, "budget");
  // What the cheapest costs beyond the budget is all that it can be overdrawn by.
  EXPECT_LE(spent_, 0.0501 + 175 * 200 / 1e6 + 1e-9);
  wish_.payer = 78;
  EXPECT_EQ(Run(policy.get(), "hard")->target, "large") << "others have their own";
}

TEST_F(ScoredRoutingTest, AnExhaustedBudgetCanRefuse) {
  options_.day_usd = 0.003;
  options_.reject_over_budget = true;
  const auto policy = Make();
  EXPECT_EQ(Run(policy.get(), "hard")->target, "large");
  EXPECT_EQ(Run(policy.get(), "hard")->target, "small") << "the budget has no more for large";
  wish_.payer = 5;
  while (Run(policy.get(), "easy").ok()) ASSERT_LT(spent_, 0.003 + 1e-9);
  const auto refused = Run(policy.get(), "easy");
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_THAT(Message(refused.status()), HasSubstr("today's budget"));
  EXPECT_GT(RetryAfterSeconds(refused.status()), 0);
}

TEST_F(ScoredRoutingTest, RunningRequestsAreReservedFromTheBudget) {
  options_.payer_day_usd = 0.0025;
  const auto policy = Make();
  const auto first = policy->Decide(Ask("hard"), targets_);
  EXPECT_EQ(first->target, "large");
  policy->Started(*first);
  EXPECT_EQ(policy->Decide(Ask("hard"), targets_)->target, "small");
  RouteOutcome free;
  free.target = "large";
  free.cost_usd = 0;
  policy->Finished(*first, free);
  EXPECT_EQ(policy->Decide(Ask("hard"), targets_)->target, "large") << "it cost nothing";
}

TEST(BudgetsTest, ANewDayBeginsAnew) {
  Budgets budgets(1, std::nullopt);
  budgets.Reserve(1, 10, 1);
  EXPECT_EQ(budgets.Left(1, 10), 0);
  EXPECT_EQ(budgets.Left(1, 11), 1);
  budgets.Settle(1, 10, 1, 5);
  EXPECT_EQ(budgets.Left(1, 11), 1) << "yesterday's request is yesterday's";
}

TEST(BudgetsTest, MadeUpPayersShareOneBudgetInTheEnd) {
  Budgets budgets(1, std::nullopt);
  for (uint64_t payer = 0; payer < 65536; ++payer) budgets.Reserve(payer, 1, 0.1);
  budgets.Reserve(1'000'000, 1, 1);
  EXPECT_EQ(budgets.Left(1'000'001, 1), 0);
  EXPECT_NEAR(budgets.Left(5, 1), 0.9, 1e-9);
}

}  // namespace
}  // namespace hostler
