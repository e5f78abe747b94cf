#include "router/dispatch.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/test_engine.h"

namespace hostler {
namespace {

class DispatchTest : public testing::Test {
 protected:
  DispatchTest() {
    for (const char* name : {"a", "b", "c"}) {
      auto engine = std::make_unique<TestEngine>();
      engines_[name] = engine.get();
      EXPECT_TRUE(router_.AddTarget(NewLocalTarget(name, {1, 2}, std::move(engine))).ok());
    }
    decision_.target = "a";
    decision_.fallbacks = {"b", "c"};
  }

  std::unique_ptr<RoutedStream> Start() {
    GenerateRequest request;
    request.prompt = std::string("12345");
    auto stream = RoutedStream::Start(&router_, &retries_, &stats_, decision_, std::move(request));
    EXPECT_TRUE(stream.ok()) << stream.status();
    return *std::move(stream);
  }

  static GenerateEvent Token(const std::string& text, bool last = false) {
    GenerateEvent event;
    event.text = text;
    event.token_ids = {7};
    if (last) event.finish_reason = FinishReason::kStop;
    return event;
  }

  static GenerateEvent Likely(const std::string& text, float logprob, bool last = false) {
    GenerateEvent event = Token(text, last);
    event.logprobs = {{.chosen = {7, logprob, text}, .top = {}}};
    return event;
  }

  static std::string Text(RoutedStream* stream) {
    std::string text;
    GenerateEvent event;
    while (stream->TryPop(&event)) text += event.text;
    return text;
  }

  std::shared_ptr<GenerateStream> StreamOf(const std::string& name) {
    return engines_[name]->WaitForRequest(0).second;
  }

  static void End(GenerateStream* stream, const absl::Status& status = absl::OkStatus()) {
    stream->End(status, {.prompt_tokens = 5, .completion_tokens = 2}, {.total_ms = 1});
  }

  Router router_;
  std::map<std::string, TestEngine*> engines_;
  RetryBudget retries_;
  DispatchStats stats_;
  Decision decision_;
};

TEST_F(DispatchTest, TurnsToTheNextTargetWhenOneRefuses) {
  engines_["a"]->refuse = absl::UnavailableError("down");
  engines_["b"]->refuse = absl::ResourceExhaustedError("full");
  const auto stream = Start();
  EXPECT_EQ(stream->target(), "c");
  EXPECT_EQ(stats_.fallbacks, 2u);
}

TEST_F(DispatchTest, DoesNotTakeABadRequestElsewhere) {
  engines_["a"]->refuse = absl::InvalidArgumentError("too long");
  auto stream = RoutedStream::Start(&router_, &retries_, &stats_, decision_, GenerateRequest());
  EXPECT_TRUE(absl::IsInvalidArgument(stream.status()));
}

TEST_F(DispatchTest, FailsOverWhileTheClientHasSeenNothing) {
  const auto stream = Start();
  int woken = 0;
  stream->OnReady([&woken] { ++woken; });
  End(StreamOf("a").get(), absl::UnavailableError("died"));
  GenerateEvent event;
  EXPECT_FALSE(stream->TryPop(&event));
  EXPECT_FALSE(stream->ended());
  EXPECT_EQ(stream->target(), "b");
  const int before = woken;
  StreamOf("b")->Push(Token("hello", true));
  EXPECT_GT(woken, before) << "the new stream's news reach the consumer";
  End(StreamOf("b").get());
  EXPECT_EQ(Text(stream.get()), "hello");
  EXPECT_TRUE(stream->ended());
  EXPECT_TRUE(stream->status().ok());
  EXPECT_EQ(stream->outcome().fallbacks, 1);
}

TEST_F(DispatchTest, AFailureSeenOnlyByEndedFailsOverToo) {
  const auto stream = Start();
  GenerateEvent event;
  EXPECT_FALSE(stream->TryPop(&event));
  End(StreamOf("a").get(), absl::UnavailableError("died"));
  EXPECT_FALSE(stream->ended());
  EXPECT_EQ(stream->target(), "b");
}

TEST_F(DispatchTest, NeverRepeatsWhatWasStreamed) {
  const auto stream = Start();
  StreamOf("a")->Push(Token("half"));
  EXPECT_EQ(Text(stream.get()), "half");
  End(StreamOf("a").get(), absl::UnavailableError("died"));
  EXPECT_EQ(Text(stream.get()), "");
  EXPECT_TRUE(stream->ended());
  EXPECT_TRUE(absl::IsUnavailable(stream->status())) << "the failure is told, not hidden";
  EXPECT_EQ(stream->target(), "a");
}

TEST_F(DispatchTest, RetriesAreAShareOfTheRequests) {
  RetryBudget budget(/*share=*/0.5, /*reserve=*/1);
  EXPECT_TRUE(budget.TakeRetry());
  EXPECT_FALSE(budget.TakeRetry());
  budget.CountRequest();
  EXPECT_FALSE(budget.TakeRetry());
  budget.CountRequest();
  EXPECT_TRUE(budget.TakeRetry());
}

TEST_F(DispatchTest, ACascadeKeepsALikelyAnswerAndHidesItsLogprobs) {
  decision_.judge = CascadeJudge{-0.5, 2};
  const auto stream = Start();
  StreamOf("a")->Push(Likely("he", -0.1f));
  GenerateEvent event;
  EXPECT_FALSE(stream->TryPop(&event)) << "not judged yet";
  EXPECT_FALSE(stream->ended());
  StreamOf("a")->Push(Likely("llo", -0.2f));
  ASSERT_TRUE(stream->TryPop(&event));
  EXPECT_EQ(event.text, "he");
  EXPECT_TRUE(event.logprobs.empty());
  StreamOf("a")->Push(Likely("!", -9.f, true));
  End(StreamOf("a").get());
  EXPECT_EQ(Text(stream.get()), "llo!");
  EXPECT_TRUE(stream->ended());
  EXPECT_EQ(engines_["a"]->WaitForRequest(0).first.logprobs, 0);
  EXPECT_EQ(stats_.cascades_kept, 1u);
}

TEST_F(DispatchTest, ACascadeEscalatesAnUnlikelyAnswer) {
  decision_.judge = CascadeJudge{-0.5, 32};
  const auto stream = Start();
  StreamOf("a")->Push(Likely("dunno", -2.f, true));
  End(StreamOf("a").get());
  GenerateEvent event;
  EXPECT_FALSE(stream->TryPop(&event));
  EXPECT_EQ(stream->target(), "b");
  EXPECT_EQ(engines_["b"]->WaitForRequest(0).first.logprobs, std::nullopt);
  StreamOf("b")->Push(Token("sure", true));
  End(StreamOf("b").get());
  EXPECT_EQ(Text(stream.get()), "sure");
  const RouteOutcome outcome = stream->outcome();
  EXPECT_TRUE(outcome.escalated);
  EXPECT_DOUBLE_EQ(outcome.cost_usd, 2 * (5 * 1 + 2 * 2) / 1e6) << "both answers are paid";
}

TEST_F(DispatchTest, ACascadeKeepsTheFirstAnswerWhenNobodyBetterTakesIt) {
  decision_.judge = CascadeJudge{-0.5, 1};
  engines_["b"]->refuse = absl::UnavailableError("down");
  const auto stream = Start();
  StreamOf("a")->Push(Likely("dunno", -2.f, true));
  EXPECT_EQ(Text(stream.get()), "dunno");
}

TEST_F(DispatchTest, LeavingCancels) {
  auto stream = Start();
  const auto inner = StreamOf("a");
  stream.reset();
  EXPECT_TRUE(inner->cancelled());
}

}  // namespace
}  // namespace hostler
