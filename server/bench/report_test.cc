#include "server/bench/report.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::HasSubstr;

// Sent at `sent_s`, first token after 0.1 s, then a token every `gap_s`.
Outcome Answer(double sent_s, double gap_s, int tokens) {
  Outcome o;
  o.ok = true;
  o.due_s = o.sent_s = sent_s;
  o.first_token_s = sent_s + 0.1;
  o.end_s = o.first_token_s + gap_s * (tokens - 1);
  o.prompt_tokens = 100;
  o.output_tokens = tokens;
  o.gaps_s.assign(tokens - 1, static_cast<float>(gap_s));
  return o;
}

Outcome Failure(double sent_s, const std::string& kind) {
  Outcome o;
  o.due_s = o.sent_s = o.end_s = sent_s;
  o.failure = kind;
  o.detail = "said " + kind;
  return o;
}

TEST(PercentileTest, InterpolatesBetweenRanks) {
  std::vector<double> values = {4, 1, 3, 2};
  EXPECT_DOUBLE_EQ(Percentile(&values, 0), 1);
  EXPECT_DOUBLE_EQ(Percentile(&values, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Percentile(&values, 1), 4);
  EXPECT_DOUBLE_EQ(Percentile(&values, 0.9), 3.7);
  std::vector<double> one = {7};
  EXPECT_DOUBLE_EQ(Percentile(&one, 0.99), 7);
  std::vector<double> none;
  EXPECT_DOUBLE_EQ(Percentile(&none, 0.5), 0);
}

TEST(SummaryTest, CountsTimesAndTokensOfCompletedRequests) {
  const LoadSummary s =
      Summarize({Answer(0, 0.01, 11), Answer(1, 0.03, 11), Failure(0.5, "http 429")}, {});
  EXPECT_EQ(s.requests, 3);
  EXPECT_EQ(s.completed, 2);
  EXPECT_EQ(s.failures.at("http 429"), 1);
  EXPECT_NEAR(s.wall_s, 1.4, 1e-9);
  EXPECT_NEAR(s.ttft_ms.p50, 100, 1e-6);
  EXPECT_NEAR(s.itl_ms.mean, 20, 1e-3);
  EXPECT_NEAR(s.e2e_ms.p50, 300, 1e-3);
  EXPECT_NEAR(s.prompt_tokens_per_s, 200 / 1.4, 1e-6);
  EXPECT_NEAR(s.output_tokens_per_s, 22 / 1.4, 1e-6);
}

TEST(SummaryTest, GoodputCountsOnlyRequestsWithinBothLimits) {
  LoadSummaryOptions options;
  options.slo_ttft_ms = 150;
  options.slo_itl_ms = 20;
  const std::vector<Outcome> outcomes = {Answer(0, 0.01, 11), Answer(1, 0.03, 11),
                                         Failure(0.5, "timeout")};
  EXPECT_EQ(Summarize(outcomes, options).good, 1);
  options.slo_itl_ms = 40;
  EXPECT_EQ(Summarize(outcomes, options).good, 2);
  options.slo_ttft_ms = 50;
  EXPECT_EQ(Summarize(outcomes, options).good, 0);
}

TEST(SummaryTest, OpenLoopTellsRateAndLateness) {
  LoadSummaryOptions options;
  options.open_loop = true;
  options.offered_rate = 2;
  std::vector<Outcome> outcomes;
  for (int i = 0; i < 5; ++i) outcomes.push_back(Answer(i * 0.5, 0.01, 2));
  outcomes.back().due_s -= 0.2;
  const LoadSummary s = Summarize(outcomes, options);
  EXPECT_NEAR(s.achieved_rate, 2, 1e-9);
  EXPECT_NEAR(s.lateness_p99_ms, 192, 1e-6);  // between 0 and 200 at rank 3.96
  EXPECT_FALSE(ToJson(s)["sender_on_time"].get<bool>());
}

TEST(SummaryTest, ReportsRepeatTheSettingsAndNameFailures) {
  LoadSummaryOptions options;
  options.settings = {{"url", "http://127.0.0.1:1"}, {"scale", 16}};
  const LoadSummary s = Summarize({Failure(0, "http 429"), Failure(0, "http 429")}, options);
  EXPECT_EQ(ToJson(s)["scale"], 16);
  EXPECT_EQ(ToJson(s)["failures"]["http 429"], 2);
  EXPECT_THAT(ToTable(s), HasSubstr("2 × http 429: said http 429"));
  EXPECT_THAT(ToTable(s), HasSubstr("scale=16"));
}

}  // namespace
}  // namespace hostler
