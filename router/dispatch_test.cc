#include "router/dispatch.h"

#include <atomic>
#include <cmath>
#include <thread>

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
    auto stream = RoutedStream::Start(tools_, decision_, std::move(request));
    EXPECT_TRUE(stream.ok()) << stream.status();
    return *std::move(stream);
  }

  static GenerateEvent Likely(const std::string& text, float logprob, bool last = false) {
    GenerateEvent event = TextToken(text, last);
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
  Alarms alarms_;
  const DispatchTools tools_{&router_, &retries_, &stats_, &alarms_};
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
  auto stream = RoutedStream::Start(tools_, decision_, GenerateRequest());
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
  StreamOf("b")->Push(TextToken("hello", true));
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
  StreamOf("a")->Push(TextToken("half"));
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
  StreamOf("b")->Push(TextToken("sure", true));
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

// An upstream's first chunk, which names the role and no token.
GenerateEvent Role() {
  GenerateEvent event;
  event.text = "";
  event.wire = "{}";
  return event;
}

TEST_F(DispatchTest, ALateFirstTokenIsHedgedAndTheFirstToHaveOneAnswers) {
  decision_.hedge_after_s = 0.02;
  const auto stream = Start();
  std::atomic<int> woken = 0;
  stream->OnReady([&woken] { ++woken; });
  StreamOf("a")->Push(Role());
  GenerateEvent event;
  EXPECT_FALSE(stream->TryPop(&event)) << "no token yet";
  const int before = woken;
  while (woken == before) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_FALSE(stream->TryPop(&event));
  StreamOf("b")->Push(TextToken("from b"));
  ASSERT_TRUE(stream->TryPop(&event));
  EXPECT_EQ(event.text, "from b");
  EXPECT_EQ(stream->target(), "b");
  EXPECT_TRUE(StreamOf("a")->cancelled());
  StreamOf("b")->Push(TextToken("!", true));
  End(StreamOf("b").get());
  EXPECT_EQ(Text(stream.get()), "!");
  EXPECT_TRUE(stream->ended());
  EXPECT_EQ(stats_.hedges_won, 1u);
  const RouteOutcome outcome = stream->outcome();
  EXPECT_TRUE(outcome.hedged);
  EXPECT_EQ(outcome.fallbacks, 0);
}

TEST_F(DispatchTest, TheFirstTargetMayStillWinAndNothingOfTheSecondIsSeen) {
  decision_.hedge_after_s = 0;
  decision_.virtual_model = "auto";
  const auto stream = Start();
  GenerateEvent event;
  EXPECT_FALSE(stream->TryPop(&event)) << "the second is asked";
  StreamOf("b")->Push(Role());
  StreamOf("a")->Push(Role());
  EXPECT_FALSE(stream->TryPop(&event));
  StreamOf("a")->Push(TextToken("from a", true));
  End(StreamOf("a").get());
  int events = 0;
  std::string text;
  while (stream->TryPop(&event)) {
    ++events;
    text += event.text;
  }
  EXPECT_EQ(text, "from a");
  EXPECT_EQ(events, 2) << "its own role chunk and its token";
  EXPECT_TRUE(stream->ended());
  EXPECT_TRUE(StreamOf("b")->cancelled());
  EXPECT_EQ(stats_.hedges_lost, 1u);
  // a: 5 prompt tokens and 2; b, which was left: about as many prompt tokens, 2 by its bytes.
  EXPECT_DOUBLE_EQ(stream->outcome().cost_usd, ((5 * 1 + 2 * 2) + 2 * 1) / 1e6);
}

TEST_F(DispatchTest, AHedgeSurvivesTheFailureOfEitherTarget) {
  decision_.hedge_after_s = 0;
  for (const bool first_fails : {true, false}) {
    const size_t round = first_fails ? 0 : 1;
    const auto stream = Start();
    GenerateEvent event;
    EXPECT_FALSE(stream->TryPop(&event));
    const auto a = engines_["a"]->WaitForRequest(round).second;
    const auto b = engines_["b"]->WaitForRequest(round).second;
    End((first_fails ? a : b).get(), absl::UnavailableError("died"));
    EXPECT_FALSE(stream->TryPop(&event));
    EXPECT_FALSE(stream->ended());
    const auto& other = first_fails ? b : a;
    other->Push(TextToken("alive", true));
    End(other.get());
    EXPECT_EQ(Text(stream.get()), "alive");
    EXPECT_TRUE(stream->ended());
    EXPECT_TRUE(stream->status().ok()) << stream->status();
    EXPECT_EQ(stream->target(), first_fails ? "b" : "a");
  }
  EXPECT_EQ(stats_.hedges_won, 1u);
  EXPECT_EQ(stats_.hedges_failed, 1u);
}

TEST_F(DispatchTest, WhenBothFailTheThirdIsAskedAndNoHalfAnswerIsPassedOn) {
  decision_.hedge_after_s = 0;
  const auto stream = Start();
  GenerateEvent event;
  EXPECT_FALSE(stream->TryPop(&event));
  StreamOf("b")->Push(Role());
  EXPECT_FALSE(stream->TryPop(&event));
  End(StreamOf("b").get(), absl::UnavailableError("died"));
  StreamOf("a")->Push(Role());
  End(StreamOf("a").get(), absl::UnavailableError("died"));
  EXPECT_FALSE(stream->TryPop(&event));
  EXPECT_FALSE(stream->ended());
  EXPECT_EQ(stream->target(), "c");
  StreamOf("c")->Push(TextToken("at last", true));
  End(StreamOf("c").get());
  EXPECT_EQ(Text(stream.get()), "at last");
  EXPECT_TRUE(stream->ended());
}

TEST_F(DispatchTest, HedgesAreRetriesToTheBudget) {
  RetryBudget none(0, 0);
  const DispatchTools tools{&router_, &none, &stats_, &alarms_};
  decision_.hedge_after_s = 0;
  GenerateRequest request;
  request.prompt = std::string("12345");
  auto stream = RoutedStream::Start(tools, decision_, std::move(request));
  ASSERT_TRUE(stream.ok());
  GenerateEvent event;
  EXPECT_FALSE((*stream)->TryPop(&event));
  StreamOf("a")->Push(TextToken("alone", true));
  End(StreamOf("a").get());
  EXPECT_EQ(Text(stream->get()), "alone");
  EXPECT_EQ(stats_.hedges_refused, 1u);
}

TEST_F(DispatchTest, LeavingARaceCancelsBoth) {
  decision_.hedge_after_s = 0;
  auto stream = Start();
  GenerateEvent event;
  EXPECT_FALSE(stream->TryPop(&event));
  const auto a = StreamOf("a"), b = StreamOf("b");
  stream.reset();
  EXPECT_TRUE(a->cancelled());
  EXPECT_TRUE(b->cancelled());
}

TEST_F(DispatchTest, ThePercentileOfWaitsIsLearnedFromRacesWithoutAHedge) {
  ASSERT_TRUE(
      router_.AddVirtualModel("auto", NewStaticPolicy({}), {.shadow = {}, .hedge = HedgeOptions()})
          .ok());
  GenerateRequest request;
  request.model = "auto";
  EXPECT_TRUE(std::isinf(*router_.Route(request)->hedge_after_s)) << "nothing is known yet";
  decision_.hedge_after_s = INFINITY;
  for (size_t i = 0; i < SpeedEstimate::kFewWaits; ++i) {
    const auto stream = Start();
    const auto inner = engines_["a"]->WaitForRequest(i).second;
    inner->Push(TextToken("x", true));
    End(inner.get());
    EXPECT_EQ(Text(stream.get()), "x");
  }
  EXPECT_LT(*router_.Route(request)->hedge_after_s, 1);
}

TEST(AlarmsTest, RingInOrderAndNotOnceCleared) {
  std::mutex mutex;
  std::vector<int> rung;
  const auto ring = [&](int which) {
    return [&, which] {
      std::lock_guard lock(mutex);
      rung.push_back(which);
    };
  };
  Alarms alarms;
  const auto in = [](int ms) { return Alarms::Clock::now() + std::chrono::milliseconds(ms); };
  alarms.Set(in(40), ring(3));
  alarms.Set(in(10), ring(1));
  const uint64_t cleared = alarms.Set(in(20), ring(2));
  alarms.Clear(cleared);
  alarms.Clear(cleared);
  const auto all = [&] {
    std::lock_guard lock(mutex);
    return rung.size() == 2;
  };
  while (!all()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::lock_guard lock(mutex);
  EXPECT_EQ(rung, (std::vector<int>{1, 3}));
}

TEST_F(DispatchTest, LeavingCancels) {
  auto stream = Start();
  const auto inner = StreamOf("a");
  stream.reset();
  EXPECT_TRUE(inner->cancelled());
}

}  // namespace
}  // namespace hostler
