#include "cache/trace_analysis.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace hostler {
namespace {

// One layer, one expert a token.
ExpertTrace Toy(const std::vector<int>& experts, int num_experts = 16) {
  ExpertTrace trace;
  trace.header = {"toy", 1, num_experts, 1, false, {1000}, {}};
  for (int step = 0; step < static_cast<int>(experts.size()); ++step) {
    trace.lines.push_back({true, step, 0});
    trace.chosen.push_back(experts[step]);
  }
  return trace;
}

TEST(TraceAnalysisTest, ASteadyModelScoresFully) {
  const auto analysis = AnalyzeTrace(Toy(std::vector<int>(100, 3)));
  ASSERT_TRUE(analysis.ok()) << analysis.status();
  for (const SegmentScore& segment : analysis->segments) {
    EXPECT_DOUBLE_EQ(segment.srp, 1);
    EXPECT_DOUBLE_EQ(segment.size_ratio, 1);
    EXPECT_DOUBLE_EQ(segment.sch[0], 0.99);
  }
  EXPECT_DOUBLE_EQ(analysis->reuse_within[0], 0.99);
  EXPECT_DOUBLE_EQ(analysis->first_uses, 0.01);
  EXPECT_DOUBLE_EQ(analysis->never_used, 15.0 / 16);
  EXPECT_DOUBLE_EQ(analysis->budget, 0.05);
  EXPECT_NE(Verdict(*analysis).find("suits offloading well"), std::string::npos);
}

TEST(TraceAnalysisTest, SrpIsTheBestF1OfOneChoiceForASegment) {
  // Two experts in turn: in 4 tokens each is used twice. Choosing both: hits
  // 4, chosen 8, used 4: F1 = 2·4 / 12.
  std::vector<int> turns;
  for (int i = 0; i < 40; ++i) turns.push_back(i % 2);
  const auto analysis = AnalyzeTrace(Toy(turns));
  ASSERT_TRUE(analysis.ok());
  EXPECT_NEAR(analysis->segments[0].srp, 2.0 / 3, 1e-12);
  EXPECT_DOUBLE_EQ(analysis->segments[0].size_ratio, 2);
  EXPECT_DOUBLE_EQ(analysis->segments[0].sch[0], 0);
  EXPECT_DOUBLE_EQ(analysis->segments[0].sch[1], 38.0 / 40);
}

TEST(TraceAnalysisTest, AModelThatNeverRepeatsSuitsBadly) {
  std::vector<int> loop;
  for (int i = 0; i < 300; ++i) loop.push_back(i % 100);
  const auto analysis = AnalyzeTrace(Toy(loop, 100));
  ASSERT_TRUE(analysis.ok());
  EXPECT_EQ(analysis->reuse_within[3], 0);
  EXPECT_EQ(analysis->budget, 0.7);
  EXPECT_NE(Verdict(*analysis).find("suits offloading badly"), std::string::npos)
      << Verdict(*analysis);
}

TEST(TraceAnalysisTest, ATraceWithoutDecodeIsAnError) {
  EXPECT_EQ(AnalyzeTrace(Toy({})).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(TraceAnalysisTest, RecordedTracesAreInTheOrderOfTheirLocality) {
  const std::string folder = HOSTLER_SOURCE_DIR "/../shared/data/expert-traces/";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no traces in " << folder;
  const auto qwen = AnalyzeTrace(*ReadExpertTrace(folder + "qwen.csv"));
  const auto olmoe = AnalyzeTrace(*ReadExpertTrace(folder + "olmoe.csv"));
  ASSERT_TRUE(qwen.ok() && olmoe.ok());
  EXPECT_LT(qwen->budget, olmoe->budget);
  for (const auto* analysis : {&*qwen, &*olmoe}) {
    EXPECT_GT(analysis->affinity, analysis->affinity_of_popular);
    double last = 0;
    for (const double rate : analysis->segments[1].sch) {
      EXPECT_GT(rate, last);
      last = rate;
    }
  }
}

}  // namespace
}  // namespace hostler
