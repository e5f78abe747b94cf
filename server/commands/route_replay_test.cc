#include "server/commands/route_replay.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::HasSubstr;

// Half of the prompts are hard for small. All went to large; each answer took a
// second, cost 2 where 1 was expected, and was good where it was predicted so.
RouteLog AllToLarge(int count) {
  RouteLog log;
  for (int i = 0; i < count; ++i) {
    LoggedDecision logged;
    logged.time = 100 + 10 * i;
    logged.id = "id-" + std::to_string(i);
    logged.prompt = i % 2 == 0 ? "easy" : "hard";
    logged.decision.virtual_model = "auto";
    logged.decision.target = "large";
    logged.decision.candidates = {
        {.target = "small", .quality = i % 2 == 0 ? 0.8 : 0.2, .cost_usd = 0.1, .latency_s = 0.5},
        {.target = "large", .quality = 0.9, .cost_usd = 1, .latency_s = 3},
        {.target = "down", .quality = 1, .cost_usd = 0, .left_out = "not available"}};
    logged.outcome.target = "large";
    logged.outcome.cost_usd = 2;
    logged.outcome.timings.total_ms = 1000;
    log.decisions.push_back(logged);
    log.feedback.push_back({logged.time + 1, logged.id, "large", i % 4 == 0 ? 0.0 : 1.0});
  }
  return log;
}

Json ReplayWith(const RouteLog& log, std::optional<double> value, Limits limits) {
  return ReplayJson(log, {[value] { return NewCostQuality(value); }, limits});
}

TEST(RouteReplayTest, ComparesWhatWasPredictedWithWhatCame) {
  RouteLog log = AllToLarge(8);
  log.decisions[1].outcome.status = absl::UnknownError("failed");
  log.decisions[2].outcome.fallbacks = 1;
  const Json rows = CalibrationJson(log);
  ASSERT_EQ(rows.size(), 1);
  EXPECT_EQ(rows[0]["model"], "large");
  EXPECT_EQ(rows[0]["requests"], 8);
  EXPECT_EQ(rows[0]["failed"], 1);
  EXPECT_EQ(rows[0]["cost_usd"],
            (Json{{"n", 6}, {"predicted", 1.}, {"observed", 2.}, {"mae", 1.}}));
  EXPECT_EQ(rows[0]["latency_s"]["mae"], 2.0);
  EXPECT_EQ(rows[0]["quality"]["n"], 8);
  EXPECT_NEAR(rows[0]["quality"]["observed"].get<double>(), 0.75, 1e-12);
  EXPECT_NEAR(rows[0]["quality"]["ece"].get<double>(), 0.15, 1e-12);
  EXPECT_NEAR(rows[0]["quality"]["mae"].get<double>(), (6 * 0.1 + 2 * 0.9) / 8, 1e-12);
}

TEST(RouteReplayTest, SendsTheEasyHalfToTheCheapModelAndJudgesByTheRest) {
  const Json report = ReplayWith(AllToLarge(8), std::nullopt, {.min_quality = 0.7});
  EXPECT_EQ(report["logged"]["share"], (Json{{"large", 1.0}}));
  const Json& replayed = report["replayed"];
  EXPECT_EQ(replayed["share"], (Json{{"large", 0.5}, {"small", 0.5}}));
  EXPECT_NEAR(replayed["predicted_cost_usd"].get<double>(), 0.55, 1e-12);
  EXPECT_NEAR(replayed["predicted_quality"].get<double>(), 0.85, 1e-12);
  EXPECT_EQ(replayed["matched"], 4);
  EXPECT_EQ(replayed["judged"], 4);
  EXPECT_EQ(replayed["observed_quality"], 1.0) << "the hard ones, which large did well";
  EXPECT_EQ(report["logged"]["observed_quality"], 0.75);
}

TEST(RouteReplayTest, KeepsTheBoundsOfTheCommandLineAndOfEachRequest) {
  RouteLog log = AllToLarge(8);
  EXPECT_EQ(ReplayWith(log, std::nullopt, {.max_cost = 0.5})["replayed"]["share"],
            (Json{{"small", 1.0}}));
  log.decisions[0].decision.wish.min_quality = 0.85;
  const Json report = ReplayWith(log, std::nullopt, {.min_quality = 0.1});
  EXPECT_EQ(report["replayed"]["share"], (Json{{"large", 0.125}, {"small", 0.875}}));
}

TEST(RouteReplayTest, MayTakeWhatWasTooDearThenButNotWhatWasDown) {
  RouteLog log = AllToLarge(4);
  for (LoggedDecision& logged : log.decisions) {
    logged.decision.candidates[1].left_out = kOverBudget;
    logged.decision.target = logged.outcome.target = "small";
  }
  EXPECT_EQ(ReplayWith(log, 100.0, {})["replayed"]["share"], (Json{{"large", 1.0}}));
}

TEST(RouteReplayTest, ABanditLearnsOnlyFromAnswersOfTheTargetThatItChose) {
  // large is bad in truth; small was never asked, so nothing is learned of it.
  RouteLog log = AllToLarge(200);
  for (LoggedFeedback& feedback : log.feedback) feedback.score = 0;
  const Json report = ReplayJson(log, {[] { return NewBandit({.explore = 0}); }, {}});
  const double share = report["replayed"]["share"].value("large", 0.0);
  EXPECT_GT(share, 0) << "as predicted, at first";
  EXPECT_LT(share, 0.5) << "and no longer once it was judged";
  EXPECT_EQ(report["replayed"]["judged"], report["replayed"]["matched"]);
}

class WordSource : public QualitySource {
 public:
  const std::vector<std::string>& models() const override { return models_; }
  void Predict(const RoutePrompt& prompt, std::span<QualityEstimate> out) const override {
    out[0].quality = out[1].quality = prompt.text == "hard" ? 0.1 : 0.9;
    out[2].quality = 0.5;
  }

 private:
  const std::vector<std::string> models_ = {"tiny-1b", "down", "large"};
};

TEST(RouteReplayTest, PredictsAgainWithAnotherRouterWhereTheTextIsKnown) {
  RouteLog log = AllToLarge(8);
  const std::vector<TargetTerms> names = {{.target = "small", .quality_as = "tiny-1b"}};
  const absl::Status unknown = PredictAgain(WordSource(), {}, &log);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("--quality-as small=MODEL"));
  ASSERT_TRUE(PredictAgain(WordSource(), names, &log).ok());
  EXPECT_EQ(ReplayWith(log, std::nullopt, {})["replayed"]["share"],
            (Json{{"large", 0.5}, {"small", 0.5}}));
  log.decisions[3].prompt = "";
  EXPECT_THAT(std::string(PredictAgain(WordSource(), names, &log).message()),
              HasSubstr("route_log_prompts"));
}

TEST(RouteReplayTest, TellsPeopleOfADecisionThatNothingCouldReplay) {
  RouteLog log = AllToLarge(2);
  for (LoggedDecision& logged : log.decisions) logged.decision.candidates.clear();
  Json report = {{"log", {{"decisions", 2}, {"feedback", 2}, {"truncated", true}, {"skipped", 0}}},
                 {"calibration", CalibrationJson(log)}};
  report.update(ReplayWith(log, std::nullopt, {}));
  EXPECT_EQ(report["replayed"]["decisions"], 0);
  const std::string text = LogReportText(report);
  EXPECT_THAT(text, HasSubstr("the last line is cut off"));
  EXPECT_THAT(text, HasSubstr("replayed: 0 decisions\n"));
}

}  // namespace
}  // namespace hostler
