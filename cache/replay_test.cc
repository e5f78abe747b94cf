#include "cache/replay.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

namespace hostler {
namespace {

// Two layers of four experts, one of them for a token.
ExpertTrace Toy(const std::vector<int>& layer0, const std::vector<int>& layer1) {
  ExpertTrace trace;
  trace.header = {"toy", 2, 4, 1, false, {}, {}};
  for (int step = 0; step < static_cast<int>(layer0.size()); ++step) {
    trace.lines.push_back({true, step, 0});
    trace.chosen.push_back(layer0[step]);
    trace.lines.push_back({true, step, 1});
    trace.chosen.push_back(layer1[step]);
  }
  return trace;
}

TEST(RequestListTest, APromptIsOneRequestPerLayer) {
  const auto trace = ParseExpertTrace(
      "# expert-trace v1\n# layers=2 experts=4 topk=2\nphase,step,layer,e0,e1\n"
      "0,0,0,3,1\n0,1,0,1,2\n0,0,1,0,1\n0,1,1,1,0\n1,2,0,0,1\n1,2,1,2,3\n");
  ASSERT_TRUE(trace.ok()) << trace.status();
  const RequestList list(*trace);
  ASSERT_EQ(list.items().size(), 4);
  const auto& [decode, request] = list.items()[0];
  EXPECT_FALSE(decode);
  EXPECT_EQ(request.layer, 0);
  EXPECT_EQ(std::vector<int>(request.experts.begin(), request.experts.end()),
            (std::vector<int>{3, 1, 2}));
  ASSERT_EQ(request.num_tokens(), 2);
  EXPECT_EQ(request.token(1)[1], 2);
  EXPECT_EQ(list.items()[1].request.experts.size(), 2);
  EXPECT_TRUE(list.items()[3].decode);
  EXPECT_EQ(list.items()[3].request.token(0)[0], 2);
}

TEST(RequestListTest, SequencesRunSideBySide) {
  const RequestList list(Toy({0, 1, 2, 3, 0}, {1, 1, 2, 1, 0}), 2);
  ASSERT_EQ(list.items().size(), 4) << "two steps of two layers; the fifth token has no partner";
  const ExpertRequest& request = list.items()[0].request;
  EXPECT_EQ(request.sequences, 2);
  ASSERT_EQ(request.num_tokens(), 2);
  EXPECT_EQ(request.token(0)[0], 0);
  EXPECT_EQ(request.token(1)[0], 2);
  EXPECT_EQ(list.items()[3].request.experts.size(), 1) << "both chose expert 1";
}

TEST(ReplayTest, CountsDecodeOnlyAndLeavesThePromptOutWhenCold) {
  const auto trace = ParseExpertTrace(
      "# expert-trace v1\n# layers=1 experts=4 topk=1\nphase,step,layer,e0\n"
      "0,0,0,3\n1,1,0,3\n1,2,0,3\n");
  ASSERT_TRUE(trace.ok()) << trace.status();
  const RequestList list(*trace);
  EXPECT_EQ(Replay(list, {.capacity = 2}, NewLruPolicy().get()).hits, 2);
  const ReplayCounts cold = Replay(list, {.capacity = 2, .cold = true}, NewLruPolicy().get());
  EXPECT_EQ(cold.hits, 1);
  EXPECT_EQ(cold.lookups, 2);
}

TEST(ReplayTest, TheOracleBeatsLruOnALoop) {
  const RequestList list(Toy({0, 1, 2, 0, 1, 2, 0, 1, 2}, {0, 0, 0, 0, 0, 0, 0, 0, 0}));
  const uint64_t lru = Replay(list, {.capacity = 3}, NewLruPolicy().get()).hits;
  const uint64_t oracle =
      Replay(list, {.capacity = 3}, NewBeladyPolicy(list, false, false).get()).hits;
  const ReplayCounts bypass = Replay(list, {.capacity = 3, .members_leave = true},
                                     NewBeladyPolicy(list, false, true).get());
  EXPECT_EQ(lru, 8);
  EXPECT_GT(oracle, lru);
  EXPECT_GE(bypass.hits, oracle);
}

TEST(ReplayTest, ACacheOfNothingHitsNothing) {
  const RequestList list(Toy({0, 0, 0}, {1, 1, 1}));
  for (const std::string_view name : EvictionPolicyNames()) {
    auto policy = *NewEvictionPolicy(name, list.shape());
    const ReplayCounts counts = Replay(list, {.capacity = 0}, policy.get());
    EXPECT_EQ(counts.hits, 0) << name;
    EXPECT_EQ(counts.lookups, 6) << name;
    EXPECT_EQ(counts.bypassed, 6) << name;
  }
}

ReplayTiming Disk() { return {100.0, 2.0, {100, 100}, 1, 0.3}; }  // a read: 1 s, a layer: 1 s

TEST(TimedReplayTest, AMissStallsForItsReadLessWhatIsComputedMeanwhile) {
  const RequestList list(Toy({0, 0, 0}, {1, 1, 1}));
  const ReplayTimes times =
      ReplayTimed(list, {.capacity = 4}, Disk(), NewLruPolicy().get(), Prediction::kNone, nullptr);
  EXPECT_EQ(times.tokens, 3);
  EXPECT_EQ(times.counts.hits, 4);
  EXPECT_EQ(times.demand_bytes, 200);
  EXPECT_EQ(times.speculative_bytes, 0);
  EXPECT_DOUBLE_EQ(times.stall_seconds, 2);  // both first uses, nothing else to compute
  EXPECT_DOUBLE_EQ(times.seconds, 6 + 2);
}

TEST(TimedReplayTest, PerfectPredictionHidesReadsBehindComputing) {
  const RequestList list(Toy({0, 1, 2, 3, 0, 1, 2, 3}, {0, 1, 2, 3, 0, 1, 2, 3}));
  const auto run = [&](Prediction prediction, ExpertPredictor* predictor) {
    return ReplayTimed(list, {.capacity = 3}, Disk(), NewLruPolicy().get(), prediction, predictor);
  };
  const ReplayTimes none = run(Prediction::kNone, nullptr);
  const ReplayTimes perfect = run(Prediction::kPerfect, nullptr);
  EXPECT_LT(perfect.stall_seconds, none.stall_seconds / 2);
  EXPECT_EQ(perfect.wasted_bytes, 0);
  EXPECT_EQ(perfect.demand_bytes + perfect.speculative_bytes, none.demand_bytes);

  auto previous = NewPreviousTokenPredictor(list.shape());
  const ReplayTimes wrong = run(Prediction::kPredictor, previous.get());
  EXPECT_EQ(wrong.wasted_bytes, wrong.speculative_bytes) << "no token repeats the one before";
}

// The recorded traces, where they are.
class RecordedTracesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kFolder)) GTEST_SKIP() << "no traces in " << kFolder;
    for (const char* name : {"qwen", "gptoss", "olmoe"}) {
      auto trace = ReadExpertTrace(kFolder + name + ".csv");
      ASSERT_TRUE(trace.ok()) << trace.status();
      traces_[name] = std::make_unique<RequestList>(*trace);
    }
  }

  ReplayCounts Run(const std::string& trace, const std::string& name, double fraction,
                   bool cold = false) {
    const RequestList& list = *traces_[trace];
    const bool bypass = name == "belady_bypass";
    std::unique_ptr<EvictionPolicy> policy = name.starts_with("belady")
                                                 ? NewBeladyPolicy(list, cold, bypass)
                                                 : *NewEvictionPolicy(name, list.shape());
    return Replay(list, {CapacityOf(fraction, list.shape()), cold, bypass}, policy.get());
  }

  const std::string kFolder = HOSTLER_SOURCE_DIR "/../shared/data/expert-traces/";
  std::map<std::string, std::unique_ptr<RequestList>> traces_;
};

TEST_F(RecordedTracesTest, CountsAreExact) {
  struct Row {
    const char* trace;
    const char* policy;
    double fraction;
    bool cold;
    uint64_t hits;
    uint64_t lookups;
  };
  const Row kRows[] = {
      {"qwen", "lru", .1, false, 13346, 26496},
      {"qwen", "belady", .1, false, 20195, 26496},
      {"qwen", "belady_bypass", .1, false, 20250, 26496},
      {"qwen", "lru", .2, false, 19971, 26496},
      {"qwen", "belady", .2, false, 24140, 26496},
      {"qwen", "belady_bypass", .2, false, 24151, 26496},
      {"qwen", "lru", .1, true, 13303, 26496},
      {"qwen", "belady", .1, true, 19619, 26496},
      {"gptoss", "lru", .1, false, 1884, 3312},
      {"gptoss", "belady", .1, false, 2593, 3312},
      {"gptoss", "belady_bypass", .1, false, 2628, 3312},
      {"olmoe", "lru", .2, false, 12170, 27520},
      {"olmoe", "belady", .2, false, 18845, 27520},
      {"olmoe", "belady_bypass", .2, false, 18919, 27520},
      {"olmoe", "lru", .1, false, 0, 27520},
      {"olmoe", "belady", .1, false, 14044, 27520},
      {"olmoe", "belady_bypass", .1, false, 14333, 27520},
      {"qwen", "ema", .1, false, 15285, 26496},
      {"gptoss", "ema", .1, false, 1986, 3312},
      {"olmoe", "ema", .2, false, 13085, 27520},
  };
  for (const Row& row : kRows) {
    const ReplayCounts counts = Run(row.trace, row.policy, row.fraction, row.cold);
    EXPECT_EQ(counts.hits, row.hits) << row.trace << " " << row.policy << " " << row.fraction;
    EXPECT_EQ(counts.lookups, row.lookups);
  }
}

constexpr double kFractions[] = {.03, .05, .1, .2, .3, .5};

TEST_F(RecordedTracesTest, EveryPolicyIsWithinThreeTenthsOfAPointOfTheReference) {
  struct Row {
    const char* trace;
    const char* policy;
    double percent[6];
  };
  const Row kRows[] = {
      {"qwen", "lru", {0.0, 37.8, 50.4, 75.4, 89.8, 96.0}},
      {"qwen", "lfru", {24.6, 35.3, 56.1, 78.1, 89.2, 96.2}},
      {"qwen", "ema", {29.5, 39.2, 57.7, 78.7, 89.8, 96.3}},
      {"qwen", "forward_distance", {31.3, 41.5, 59.6, 79.4, 90.0, 96.3}},
      {"qwen", "belady", {45.6, 58.5, 76.2, 91.1, 96.0, 96.6}},
      {"gptoss", "lru", {29.6, 42.4, 56.9, 69.6, 75.8, 87.0}},
      {"gptoss", "lfru", {29.7, 41.7, 56.4, 70.9, 79.0, 87.0}},
      {"gptoss", "ema", {34.9, 45.6, 60.0, 73.5, 81.4, 87.0}},
      {"gptoss", "forward_distance", {35.2, 46.1, 59.8, 74.2, 81.6, 87.0}},
      {"gptoss", "belady", {56.6, 66.7, 78.3, 87.0, 87.0, 87.0}},
      {"olmoe", "lru", {0.0, 0.0, 0.0, 44.2, 58.4, 74.5}},
      {"olmoe", "lfru", {8.9, 15.0, 29.1, 48.8, 60.3, 79.1}},
      {"olmoe", "ema", {12.7, 19.7, 30.8, 47.5, 60.1, 78.6}},
      {"olmoe", "forward_distance", {13.2, 21.0, 35.5, 52.6, 63.2, 79.6}},
      {"olmoe", "belady", {18.2, 31.2, 51.0, 68.5, 78.1, 89.6}},
  };
  for (const Row& row : kRows) {
    for (int i = 0; i < 6; ++i) {
      const ReplayCounts counts = Run(row.trace, row.policy, kFractions[i]);
      EXPECT_NEAR(100.0 * counts.hits / counts.lookups, row.percent[i], 0.3)
          << row.trace << " " << row.policy << " " << kFractions[i];
    }
  }
}

TEST_F(RecordedTracesTest, TheDefaultIsAboveTheBestCausalRow) {
  struct Row {
    const char* trace;
    double percent[3];  // at 5, 10 and 20 %
  };
  const Row kBest[] = {
      {"qwen", {41.5, 59.6, 79.4}}, {"gptoss", {46.1, 60.0, 74.2}}, {"olmoe", {21.0, 35.5, 52.6}}};
  for (const Row& row : kBest) {
    for (int i = 0; i < 3; ++i) {
      const ReplayCounts counts = Run(row.trace, "default", kFractions[i + 1]);
      EXPECT_GE(100.0 * counts.hits / counts.lookups, row.percent[i] + 0.3)
          << row.trace << " " << kFractions[i + 1];
    }
    EXPECT_GT(Run(row.trace, "default", 0.005).hits, 0) << "below a token's cycle";
  }
}

}  // namespace
}  // namespace hostler
