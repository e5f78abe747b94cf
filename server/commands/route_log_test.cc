#include "server/commands/route_log.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/route_book.h"

namespace hostler {
namespace {

using testing::HasSubstr;

class RouteLogTest : public testing::Test {
 protected:
  RouteLogTest()
      : path_(testing::TempDir() + "route_log_" +
              testing::UnitTest::GetInstance()->current_test_info()->name() + ".jsonl") {
    std::filesystem::remove(path_);
  }
  ~RouteLogTest() override { std::filesystem::remove(path_); }

  void Append(const std::string& text) { std::ofstream(path_, std::ios::app) << text; }

  // One decision and its judgement, as a server writes them.
  void WriteOne(const std::string& id) {
    RouteMetrics metrics;
    RouteBook book(&router_, &metrics);
    ASSERT_TRUE(book.OpenLog(path_, /*with_text=*/true).ok());
    Decision decision;
    decision.target = "small";
    decision.virtual_model = "auto";
    decision.policy = "cost_quality";
    decision.rule = "floor";
    decision.wish.min_quality = 0.25;
    decision.wish.deadline_s = 2;
    decision.candidates = {{.target = "small",
                            .quality = 0.75,
                            .output_tokens = 8,
                            .cost_usd = 0.5,
                            .cached_tokens = 3},
                           {.target = "large",
                            .quality = 0.875,
                            .cost_usd = 4,
                            .latency_s = 1.5,
                            .left_out = std::string(kOverMaxCost)}};
    RouteOutcome outcome;
    outcome.target = "small";
    outcome.usage = {.prompt_tokens = 40, .completion_tokens = 9};
    outcome.timings = {.first_token_ms = 250, .total_ms = 500};
    outcome.cost_usd = 0.625;
    book.Finished(id, decision, outcome, "a prompt");
    ASSERT_TRUE(book.Feedback(id, 0.5).ok());
  }

  std::string Error() {
    return std::string(ReadRouteLog(path_, /*skip_bad=*/false).status().message());
  }

  const std::string path_;
  Router router_;
};

TEST_F(RouteLogTest, ReadsWhatAServerWrites) {
  WriteOne("chatcmpl-1");
  const auto log = ReadRouteLog(path_, false);
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_EQ(log->decisions.size(), 1);
  const LoggedDecision& logged = log->decisions[0];
  EXPECT_EQ(logged.id, "chatcmpl-1");
  EXPECT_EQ(logged.prompt, "a prompt");
  EXPECT_GT(logged.time, 1e9);
  EXPECT_EQ(logged.decision.virtual_model, "auto");
  EXPECT_EQ(logged.decision.wish.min_quality, 0.25);
  EXPECT_EQ(logged.decision.wish.deadline_s, 2);
  EXPECT_FALSE(logged.decision.wish.max_cost.has_value());
  ASSERT_EQ(logged.decision.candidates.size(), 2);
  EXPECT_EQ(logged.decision.candidates[0].quality, 0.75);
  EXPECT_EQ(logged.decision.candidates[0].cached_tokens, 3);
  EXPECT_TRUE(std::isnan(logged.decision.candidates[0].latency_s)) << "null is not known";
  EXPECT_EQ(logged.decision.candidates[1].left_out, kOverMaxCost);
  EXPECT_TRUE(logged.outcome.status.ok());
  EXPECT_EQ(logged.outcome.cost_usd, 0.625);
  EXPECT_EQ(logged.outcome.timings.total_ms, 500);
  ASSERT_EQ(log->feedback.size(), 1);
  EXPECT_EQ(log->feedback[0].target, "small");
  EXPECT_EQ(log->feedback[0].score, 0.5);
  EXPECT_FALSE(log->truncated);
}

TEST_F(RouteLogTest, LeavesOutALastLineThatIsCutOff) {
  WriteOne("chatcmpl-1");
  const auto bytes = std::filesystem::file_size(path_);
  WriteOne("chatcmpl-2");
  std::filesystem::resize_file(path_, bytes + 100);
  const auto log = ReadRouteLog(path_, false);
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_EQ(log->decisions.size(), 1);
  EXPECT_TRUE(log->truncated);

  WriteOne("chatcmpl-3");
  EXPECT_THAT(Error(), HasSubstr(path_ + ":3: ")) << "no last line any more";
  const auto rest = ReadRouteLog(path_, true);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_EQ(rest->decisions.size(), 2) << "a new server begins a new line";
  EXPECT_EQ(rest->skipped, 1);
}

TEST_F(RouteLogTest, SaysWhichLineIsBadAndWhy) {
  const auto error_of = [this](const std::string& line) {
    std::filesystem::remove(path_);
    WriteOne("chatcmpl-1");
    Append(line + "\n");
    return Error();
  };
  const std::string score = R"({"type": "feedback", "time": 1, "id": "a", "model": "m", "score": )";
  EXPECT_THAT(error_of("nonsense"), HasSubstr(":3: "));
  EXPECT_THAT(error_of("[1]"), HasSubstr(":3: \"type\" is not a text"));
  EXPECT_THAT(error_of(R"({"type": "dream"})"), HasSubstr("\"type\" is \"dream\""));
  EXPECT_THAT(error_of(score + "1.5}"), HasSubstr(":3: \"score\" is not a number from 0 to 1"));
  EXPECT_THAT(error_of(score + "\"1\"}"), HasSubstr("\"score\""));
  EXPECT_EQ(error_of(score + "1}"), "");
  EXPECT_THAT(error_of(R"({"type": "decision", "time": 1, "id": "a", "decision": 3})"),
              HasSubstr("\"decision\" is not an object"));
  EXPECT_THAT(error_of(std::string(100, '[') + std::string(100, ']')), HasSubstr(":3: "));
  EXPECT_THAT(error_of(std::string(17 << 20, 'x')), HasSubstr(":3: longer than"));
}

TEST_F(RouteLogTest, RefusesWhatIsNoFile) {
  EXPECT_TRUE(absl::IsNotFound(ReadRouteLog(path_, false).status()));
  EXPECT_FALSE(ReadRouteLog(testing::TempDir(), false).ok());
}

}  // namespace
}  // namespace hostler
