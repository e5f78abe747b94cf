#include "server/shadow_traffic.h"

#include <filesystem>
#include <fstream>
#include <thread>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/policy/scored_policy.h"
#include "router/test_engine.h"
#include "server/service.h"

namespace hostler {
namespace {

using testing::HasSubstr;
using testing::Not;

class NoLog : public RequestLog {
 public:
  void Write(const RequestRecord&) override {}
};

// "auto" takes small, the cheaper, and asks large as well.
class ShadowTest : public testing::Test {
 protected:
  ShadowTest()
      : log_path_(testing::TempDir() + "shadow_" +
                  testing::UnitTest::GetInstance()->current_test_info()->name() + ".jsonl") {
    std::filesystem::remove(log_path_);
    AddEngine("small", 1);
    AddEngine("large", 8);
  }
  ~ShadowTest() override { std::filesystem::remove(log_path_); }

  void AddEngine(const std::string& name, double price) {
    auto engine = std::make_unique<TestEngine>();
    engines_[name] = engine.get();
    EXPECT_TRUE(router_.AddTarget(NewLocalTarget(name, {price, price}, std::move(engine))).ok());
  }

  void Serve(const ShadowOptions& shadow, std::optional<double> day_usd = {}) {
    ScoredRoutingOptions options;
    options.targets = {{.target = "small", .quality = 0.6}, {.target = "large", .quality = 0.9}};
    options.limits.min_quality = 0.5;
    options.day_usd = day_usd;
    ASSERT_TRUE(router_
                    .AddVirtualModel("auto",
                                     std::make_unique<ScoredRoutingPolicy>(
                                         options, NewCostQuality(std::nullopt)),
                                     {.shadow = shadow, .hedge = {}})
                    .ok());
    metrics_ = std::make_unique<Metrics>(&router_);
    service_ = std::make_unique<Service>(&router_, metrics_.get(), &log_);
    ASSERT_TRUE(service_->routes().OpenLog(log_path_, /*with_text=*/true).ok());
  }

  std::unique_ptr<Call> Start() {
    GenerateRequest request;
    request.id = Service::NewId("cmpl-");
    request.model = "auto";
    request.prompt = std::string("a secret");
    auto call = service_->Start(std::move(request), {"http", "/v1/completions", "127.0.0.1:5"});
    EXPECT_TRUE(call.ok()) << call.status();
    return *std::move(call);
  }

  static void Answer(GenerateStream* stream, const std::string& text) {
    stream->Push(TextToken(text, true));
    stream->End(absl::OkStatus(), {.prompt_tokens = 8, .completion_tokens = 1}, {.total_ms = 4});
  }

  // The client reads the answer of small to its end.
  void Finish(Call* call, size_t request = 0) {
    Answer(engines_["small"]->WaitForRequest(request).second.get(), "from small");
    GenerateEvent event;
    std::string text;
    while (call->TryPop(&event)) text += event.text;
    EXPECT_TRUE(call->ended());
    EXPECT_EQ(text, "from small");
  }

  void WaitForResult(const std::string& result, int count = 1) {
    const std::string line = fmt::format(
        "hostler:route_shadow_total{{result=\"{}\",target=\"large\"}} {}", result, count);
    for (int i = 0; i < 1000 && metrics_->Expose().find(line) == std::string::npos; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_THAT(metrics_->Expose(), HasSubstr(line));
  }

  std::string Log() {
    std::ifstream in(log_path_);
    return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }

  const std::string log_path_;
  NoLog log_;
  Router router_;
  std::map<std::string, TestEngine*> engines_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Service> service_;
};

TEST_F(ShadowTest, AnotherTargetAnswersUnseenAndCanBeJudged) {
  Serve({.share = 1, .target = "large"});
  const auto call = Start();
  Finish(call.get());
  Answer(engines_["large"]->WaitForRequest(0).second.get(), "from large");
  WaitForResult("ok");
  EXPECT_THAT(metrics_->Expose(),
              HasSubstr("hostler:route_shadow_cost_usd_total{target=\"large\"} "));

  const std::string log = Log();
  const auto line = Json::parse(log.substr(log.find("{\"type\":\"shadow\"")));
  EXPECT_EQ(line["of"], call->id());
  EXPECT_EQ(line["prompt"], "a secret");
  EXPECT_EQ(line["answer"], "from large");
  EXPECT_EQ(line["real_answer"], "from small");
  EXPECT_EQ(line["outcome"]["model"], "large");
  EXPECT_EQ(line["outcome"]["cost_usd"], (8 + 1) * 8 / 1e6);
  EXPECT_EQ(line["real_outcome"]["model"], "small");
  ASSERT_TRUE(service_->routes().Feedback(line["id"], 1).ok());
  EXPECT_THAT(Log(), HasSubstr("\"model\":\"large\",\"score\":1"));
}

TEST_F(ShadowTest, AClientThatLeavesDoesNotEndIt) {
  Serve({.share = 1});
  auto call = Start();
  call.reset();
  Answer(engines_["large"]->WaitForRequest(0).second.get(), "from large");
  WaitForResult("ok");
}

TEST_F(ShadowTest, ATargetWithOtherWorkIsNotAsked) {
  Serve({.share = 1});
  engines_["large"]->reported.running = 1;
  Finish(Start().get());
  WaitForResult("busy");
}

TEST_F(ShadowTest, GivesWayToRequestsThatComeToItsTarget) {
  Serve({.share = 1});
  Finish(Start().get());
  const auto stream = engines_["large"]->WaitForRequest(0).second;
  engines_["large"]->reported.running = 2;
  stream->Push(TextToken("from "));
  WaitForResult("cancelled");
  EXPECT_TRUE(stream->cancelled());
  EXPECT_THAT(Log(), Not(HasSubstr("\"shadow\",\"time\""))) << "half an answer is not to be judged";
}

TEST_F(ShadowTest, OnlySoManyAtATime) {
  Serve({.share = 1, .concurrency = 1});
  Finish(Start().get(), 0);
  const auto stream = engines_["large"]->WaitForRequest(0).second;
  Finish(Start().get(), 1);
  WaitForResult("busy");
  Answer(stream.get(), "from large");
  WaitForResult("ok");
  Finish(Start().get(), 2);
  Answer(engines_["large"]->WaitForRequest(1).second.get(), "from large");
  WaitForResult("ok", 2);
}

TEST_F(ShadowTest, TheDaysBudgetPays) {
  // Of large $0.0021 are expected, of small an eighth: enough for one of large.
  Serve({.share = 1}, 0.003);
  const auto first = Start(), second = Start();
  Finish(first.get(), 0);
  const auto stream = engines_["large"]->WaitForRequest(0).second;
  Finish(second.get(), 1);
  WaitForResult("over_budget");
  Answer(stream.get(), "from large");
  WaitForResult("ok");
  const double left = router_.FindPolicy("auto")->budgets()->Left(std::nullopt, Today());
  EXPECT_NEAR(left, 0.003 - (2 * 9 * 1 + 9 * 8) / 1e6, 1e-9) << "what it did cost is counted";
}

TEST_F(ShadowTest, ShuttingDownCancels) {
  Serve({.share = 1});
  Finish(Start().get());
  const auto stream = engines_["large"]->WaitForRequest(0).second;
  service_->SetDraining();
  WaitForResult("cancelled");
  EXPECT_TRUE(stream->cancelled());
}

TEST_F(ShadowTest, AFailureIsNobodysButItsOwn) {
  Serve({.share = 1});
  Finish(Start().get());
  engines_["large"]->WaitForRequest(0).second->End(absl::UnavailableError("died"), {}, {});
  WaitForResult("failed");
  engines_["large"]->refuse = absl::UnavailableError("down");
  Finish(Start().get(), 1);
  WaitForResult("refused");
}

TEST_F(ShadowTest, TakesTheShareThatItWasTold) {
  Serve({.share = 0.25});
  int shadows = 0;
  for (int i = 0; i < 2000; ++i) {
    GenerateRequest request;
    request.id = Service::NewId("cmpl-");
    request.model = "auto";
    request.prompt = std::string("a secret");
    shadows += !router_.Route(request)->shadow.empty();
  }
  EXPECT_NEAR(shadows / 2000.0, 0.25, 0.05);
}

}  // namespace
}  // namespace hostler
