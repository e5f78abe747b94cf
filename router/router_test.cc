#include "router/router.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/features.h"
#include "router/test_engine.h"

namespace hostler {
namespace {

using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

RouteFeatures Extract(const GenerateRequest& request) {
  static std::string storage;
  return ExtractFeatures(request, &storage);
}

TargetSnapshot Snapshot(const std::string& name, double price, int context = 0) {
  return {.name = name, .price = {price, price}, .max_context = context};
}

TEST(StaticPolicyTest, ChoosesTheCheapestWhoseRuleTakesThePrompt) {
  const auto policy = NewStaticPolicy({{"small", 200}, {"large", 0}});
  const std::vector<TargetSnapshot> targets = {Snapshot("large", 8), Snapshot("small", 1)};
  const auto near = policy->Decide({.prompt_tokens = 200}, targets);
  ASSERT_TRUE(near.ok());
  EXPECT_EQ(near->target, "small");
  EXPECT_EQ(near->reason, "static: 200 prompt tokens <= 200, cheapest of 2");
  const auto far = policy->Decide({.prompt_tokens = 201}, targets);
  ASSERT_TRUE(far.ok());
  EXPECT_EQ(far->target, "large");
  EXPECT_EQ(far->reason, "static: 201 prompt tokens, cheapest of 1");
}

TEST(StaticPolicyTest, SaysWhenTheLengthIsAnEstimate) {
  const auto decision = NewStaticPolicy({})->Decide(
      {.prompt_tokens = 9, .prompt_tokens_estimated = true}, std::vector{Snapshot("a", 1)});
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->reason, "static: 9 prompt tokens (estimated), cheapest of 1");
}

TEST(StaticPolicyTest, WithoutRulesEveryTargetTakesAnyLength) {
  const std::vector<TargetSnapshot> targets = {Snapshot("a", 3), Snapshot("b", 2),
                                               Snapshot("c", 2)};
  const auto decision = NewStaticPolicy({})->Decide({.prompt_tokens = 1 << 20}, targets);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->target, "b") << "equal prices: the first listed";
}

TEST(StaticPolicyTest, PassesOverTargetsThatLackContextOrAreDown) {
  const auto policy = NewStaticPolicy({});
  std::vector<TargetSnapshot> targets = {Snapshot("short", 1, 100), Snapshot("long", 2, 1000)};
  EXPECT_EQ(policy->Decide({.prompt_tokens = 90, .max_tokens = 10}, targets)->target, "short");
  EXPECT_EQ(policy->Decide({.prompt_tokens = 90, .max_tokens = 11}, targets)->target, "long");
  EXPECT_EQ(policy->Decide({.prompt_tokens = 100}, targets)->target, "long");
  const auto too_long = policy->Decide({.prompt_tokens = 1000}, targets);
  EXPECT_TRUE(absl::IsInvalidArgument(too_long.status()));
  EXPECT_THAT(Message(too_long.status()), HasSubstr("1000"));
  targets[1].available = false;
  const auto down = policy->Decide({.prompt_tokens = 500}, targets);
  EXPECT_TRUE(absl::IsUnavailable(down.status()));
}

TEST(StaticPolicyTest, LimitsDoNotOverflow) {
  constexpr int kMax = std::numeric_limits<int>::max();
  const auto decision = NewStaticPolicy({})->Decide({.prompt_tokens = kMax, .max_tokens = kMax},
                                                    std::vector{Snapshot("a", 1, kMax)});
  EXPECT_TRUE(absl::IsInvalidArgument(decision.status()));
}

TEST(StaticPolicyTest, RefusesPromptsBeyondEveryRule) {
  const auto policy = NewStaticPolicy({{"a", 10}});
  const auto decision = policy->Decide({.prompt_tokens = 11}, std::vector{Snapshot("a", 1)});
  EXPECT_TRUE(absl::IsInvalidArgument(decision.status()));
  EXPECT_THAT(Message(decision.status()), HasSubstr("10"));
}

TEST(FeaturesTest, CountsTokenIdsAndEstimatesText) {
  GenerateRequest request;
  request.prompt = TokenPrompt{1, 2, 3};
  request.max_tokens = 7;
  EXPECT_EQ(Extract(request).prompt_tokens, 3);
  EXPECT_FALSE(Extract(request).prompt_tokens_estimated);
  EXPECT_EQ(Extract(request).max_tokens, 7);
  request.prompt = std::string(400, 'x');
  EXPECT_EQ(Extract(request).prompt_tokens, 100);
  EXPECT_TRUE(Extract(request).prompt_tokens_estimated);
}

TEST(FeaturesTest, EstimatesAChatByItsContentAndTools) {
  ChatPrompt chat;
  chat.messages = nlohmann::ordered_json::parse(R"([
    {"role": "system", "content": "12345678"},
    {"role": "user", "content": [{"type": "text", "text": "1234567890123456"}]}])");
  GenerateRequest request;
  request.prompt = chat;
  const int without_tools = Extract(request).prompt_tokens;
  EXPECT_GE(without_tools, 6);
  EXPECT_LE(without_tools, 20);
  chat.tools = nlohmann::ordered_json::parse(R"([{"name": "12345678901234567890"}])");
  request.prompt = chat;
  EXPECT_GE(Extract(request).prompt_tokens, without_tools + 5);
}

TEST(FeaturesTest, SurvivesDeepNesting) {
  nlohmann::ordered_json deep = "x";
  for (int i = 0; i < 1000; ++i) deep = nlohmann::ordered_json::array({std::move(deep)});
  ChatPrompt chat;
  chat.messages = nlohmann::ordered_json::array({std::move(deep)});
  GenerateRequest request;
  request.prompt = std::move(chat);
  EXPECT_EQ(Extract(request).prompt_tokens, 4);
}

class RouterTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const auto& [name, price] : {std::pair{"large", 8.0}, std::pair{"small", 1.0}}) {
      auto engine = std::make_unique<TestEngine>();
      engines_[name] = engine.get();
      ASSERT_TRUE(router_.AddTarget(NewLocalTarget(name, {price, price}, std::move(engine))).ok());
    }
    ASSERT_TRUE(
        router_.AddVirtualModel("auto", NewStaticPolicy({{"small", 5}, {"large", 0}})).ok());
  }

  absl::StatusOr<Decision> Route(const std::string& model, TokenPrompt prompt = {1}) {
    GenerateRequest request;
    request.model = model;
    request.prompt = std::move(prompt);
    return router_.Route(request);
  }

  Router router_;
  std::map<std::string, TestEngine*> engines_;
};

TEST_F(RouterTest, ExplicitNamesPassThrough) {
  EXPECT_EQ(Route("small")->target, "small");
  EXPECT_EQ(Route("small")->reason, "explicit");
}

TEST_F(RouterTest, NoNameIsTheFirstTarget) {
  EXPECT_EQ(Route("")->target, "large");
  EXPECT_EQ(Route("")->reason, "default");
}

TEST_F(RouterTest, AVirtualModelAsksItsPolicy) {
  EXPECT_EQ(Route("auto")->target, "small");
  EXPECT_EQ(Route("auto", TokenPrompt(6, 1))->target, "large");
}

TEST_F(RouterTest, UnknownNamesAreNotFoundAndListWhatThereIs) {
  const auto decision = Route(std::string(100000, 'z'));
  EXPECT_TRUE(absl::IsNotFound(decision.status()));
  EXPECT_THAT(Message(decision.status()), HasSubstr("large, small, auto"));
  EXPECT_LT(decision.status().message().size(), 500u);
}

TEST_F(RouterTest, ANameIsUsedOnce) {
  const auto again = [&](const char* name) {
    return router_.AddTarget(NewLocalTarget(name, {}, std::make_unique<TestEngine>()));
  };
  EXPECT_TRUE(absl::IsAlreadyExists(again("small")));
  EXPECT_TRUE(absl::IsAlreadyExists(again("auto")));
  EXPECT_TRUE(absl::IsAlreadyExists(router_.AddVirtualModel("large", NewStaticPolicy({}))));
  EXPECT_TRUE(absl::IsAlreadyExists(router_.AddVirtualModel("auto", NewStaticPolicy({}))));
  EXPECT_EQ(router_.virtual_models(), std::vector<std::string>{"auto"});
}

TEST_F(RouterTest, ALocalTargetReportsItsEnginesLoadAndSubmitsToIt) {
  engines_["small"]->reported.running = 3;
  engines_["small"]->reported.waiting = 4;
  Target* target = router_.Find("small");
  ASSERT_NE(target, nullptr);
  EXPECT_EQ(target->snapshot().running, 3);
  EXPECT_EQ(target->snapshot().waiting, 4);
  EXPECT_EQ(target->snapshot().max_context, 4096);
  EXPECT_EQ(target->snapshot().price.input, 1);
  EXPECT_EQ(target->engine(), engines_["small"]);
  GenerateRequest request;
  request.prompt = std::string("hi");
  const auto stream = target->Submit(std::move(request));
  ASSERT_TRUE(stream.ok());
  EXPECT_EQ((*stream)->prompt().token_ids.size(), 2u);
  EXPECT_EQ(router_.Find("auto"), nullptr);
}

}  // namespace
}  // namespace hostler
