#include "engine/engine/width_control.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/engine/simulated_server.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

// Seconds that a step of `width` sequences takes.
using StepSeconds = std::function<double(int width)>;

struct Outcome {
  double seconds = 0;
  int tokens = 0;
  double longest_wait = 0;
  int width = 0;
  uint64_t probes = 0;

  double tokens_per_second() const { return tokens / seconds; }
};

// Takes turns as the scheduler does.
class Clients {
 public:
  Clients(int count, const WidthControl::Options& options) : control_(options), ran_(count) {
    for (int s = 0; s < count; ++s) turns_.push_back(s);
  }

  // `step` gets the sequences of a step and says what it took.
  Outcome Run(int tokens, const std::function<StepSample(std::span<const int>)>& step) {
    Outcome outcome;
    const double start = now_;
    std::vector<int> members;
    while (outcome.tokens < tokens) {
      const int width = control_.Width(static_cast<int>(turns_.size()));
      EXPECT_GE(width, 1);
      EXPECT_LE(width, turns_.size());
      members.assign(turns_.begin(), turns_.begin() + width);
      for (const int s : members) {
        outcome.longest_wait = std::max(outcome.longest_wait, now_ - ran_[s]);
      }
      const StepSample cost = step(members);
      now_ += cost.seconds;
      for (const int s : members) ran_[s] = now_;
      outcome.tokens += width;
      if (control_.OnStep(cost)) std::rotate(turns_.begin(), turns_.begin() + width, turns_.end());
    }
    outcome.seconds = now_ - start;
    outcome.width = control_.width();
    outcome.probes = control_.probes();
    return outcome;
  }

  Outcome Run(int tokens, double stall_share, const StepSeconds& seconds) {
    return Run(tokens, [&](std::span<const int> members) {
      StepSample cost;
      cost.decodes = static_cast<int>(members.size());
      cost.seconds = seconds(cost.decodes);
      cost.stall_seconds = stall_share * cost.seconds;
      cost.read_bytes = cost.cache_bytes = 1000;
      return cost;
    });
  }

 private:
  WidthControl control_;
  std::deque<int> turns_;
  std::vector<double> ran_;
  double now_ = 0;
};

TEST(WidthControl, DoesNothingWhereNothingIsMissed) {
  Clients clients(8, {});
  // However the steps' times look: without reads no width can save any.
  const Outcome outcome = clients.Run(10000, 0, [](int width) { return 0.1 * width * width; });
  EXPECT_EQ(outcome.width, 8);
  EXPECT_EQ(outcome.probes, 0u);
  EXPECT_EQ(outcome.longest_wait, 0);
}

TEST(WidthControl, KeepsTheWidthThatPays) {
  Clients clients(8, {});
  // One sequence 0.16 s a token, eight 0.1.
  const auto seconds = [](int width) { return 0.1 + 0.0875 * width - 0.0275; };
  const Outcome outcome = clients.Run(4000, 0.8, seconds);
  EXPECT_EQ(outcome.width, 8);
  EXPECT_GT(outcome.tokens_per_second(), 0.98 * 8 / seconds(8));
}

TEST(WidthControl, NarrowsWhereSharingThrashes) {
  Clients clients(8, {});
  const auto seconds = [](int width) { return width * (width == 1 ? 0.02 : 0.03); };
  const Outcome outcome = clients.Run(8000, 0.8, seconds);
  EXPECT_EQ(outcome.width, 1);
  EXPECT_GT(outcome.tokens_per_second(), 0.95 / 0.02);
}

TEST(WidthControl, FindsAWidthBetween) {
  Clients clients(8, {});
  const auto seconds = [](int width) {
    return width * (width == 8 ? 0.03 : width == 4 ? 0.015 : 0.024);
  };
  EXPECT_EQ(clients.Run(20000, 0.8, seconds).width, 4);
}

TEST(WidthControl, GoesBackWhenSharingPaysAgain) {
  Clients clients(4, {});
  const auto thrashes = [](int width) { return width * (width == 1 ? 0.02 : 0.03); };
  const auto shares = [](int width) { return width == 1 ? 0.02 : 0.01 * width; };
  EXPECT_EQ(clients.Run(8000, 0.8, thrashes).width, 1);
  EXPECT_EQ(clients.Run(100000, 0.8, shares).width, 4);
}

TEST(WidthControl, NobodyWaitsLongerThanTheBound) {
  for (const int count : {2, 3, 5, 8}) {
    Clients clients(count, {.max_wait_seconds = 2});
    const auto seconds = [](int width) { return width * (width == 1 ? 0.02 : 0.03); };
    const Outcome outcome = clients.Run(20000, 0.8, seconds);
    EXPECT_EQ(outcome.width, 1);
    // A third more where another width is tried while they wait.
    EXPECT_LE(outcome.longest_wait, 2.8) << count << " clients";
  }
}

TEST(WidthControl, TakesNoTurnsThatWouldLastTooLong) {
  Clients clients(8, {.max_wait_seconds = 2});
  // One step of one sequence takes half a second: seven others' are too long.
  const auto seconds = [](int width) { return width * (width == 1 ? 0.5 : 0.6); };
  const Outcome outcome = clients.Run(4000, 0.8, seconds);
  EXPECT_GT(outcome.width, 1);
  EXPECT_LE(outcome.longest_wait, 2.1 + 4 * 0.5);
}

TEST(WidthControl, AFixedWidthIsKept) {
  Clients clients(8, {.fixed = 2});
  const Outcome outcome = clients.Run(1000, 0.8, [](int width) { return 0.01 * width * width; });
  EXPECT_EQ(outcome.width, 2);
  EXPECT_EQ(outcome.probes, 0u);
}

TEST(WidthControl, MoreThanAStepCanTakeGetTheirTurns) {
  Clients clients(8, {.max_width = 3, .max_wait_seconds = 1});
  const Outcome outcome = clients.Run(3000, 0, [](int) { return 0.05; });
  EXPECT_EQ(outcome.width, 3);
  EXPECT_LE(outcome.longest_wait, 1.1);
}

TEST(WidthControl, NoiseDoesNotMakeItNarrow) {
  std::mt19937 random(3);
  Clients clients(4, {});
  const auto seconds = [&random](int width) {
    const double load = std::uniform_real_distribution<>(1, 2)(random);
    return load * (0.02 + 0.01 * width);
  };
  const Outcome outcome = clients.Run(20000, 0.8, seconds);
  EXPECT_EQ(outcome.width, 4);
  EXPECT_GT(outcome.tokens_per_second(), 0.97 * 4 / (1.5 * 0.06));
}

// The same over real gates, a real policy and a modelled disk.
class WidthOverGatesTest : public ::testing::Test {
 protected:
  static Outcome Serve(PolicyShape shape, int64_t capacity, const SimulatedMachine& machine,
                       const std::vector<Choices>& sequences, int tokens) {
    SimulatedServer server(shape, capacity, machine);
    Clients clients(static_cast<int>(sequences.size()), {});
    std::vector<int> position(sequences.size());
    std::vector<SimulatedServer::Part> parts;
    return clients.Run(tokens, [&](std::span<const int> members) {
      parts.clear();
      for (const int s : members) parts.push_back({&sequences[s], position[s]++});
      return server.Step(parts);
    });
  }
};

class WidthOverTracesTest : public WidthOverGatesTest,
                            public ::testing::WithParamInterface<const char*> {};

TEST_P(WidthOverTracesTest, MoreClientsAreNotSlowerThanOne) {
  const std::string path =
      std::string(HOSTLER_SOURCE_DIR "/../shared/data/expert-traces/") + GetParam() + ".csv";
  const absl::StatusOr<ExpertTrace> trace = ReadExpertTrace(path);
  if (!trace.ok()) GTEST_SKIP() << "needs " << path;
  const TracedTokens traced(*trace);
  const PolicyShape shape{trace->header.layers, trace->header.experts};
  const double lookups = double(shape.layers) * trace->header.topk;
  const SimulatedMachine machine{.step_seconds = lookups * 1e-4,
                                 .row_seconds = lookups * 2e-4,
                                 .read_seconds = 1e-3,
                                 .noise = 0.2};
  for (const double share : {0.05, 0.1, 0.2}) {
    double alone = 0;
    for (const int count : {1, 2, 3, 4, 6, 8}) {
      std::vector<Choices> sequences;
      for (int s = 0; s < count; ++s) {
        sequences.push_back(traced.From(s * traced.tokens() / count));
      }
      const auto capacity = static_cast<int64_t>(share * shape.layers * shape.experts);
      const Outcome outcome = Serve(shape, capacity, machine, sequences, 600 * count);
      if (count == 1) alone = outcome.tokens_per_second();
      EXPECT_GT(outcome.tokens_per_second(), 0.93 * alone)
          << count << " clients, " << share << " of the experts";
      EXPECT_LE(outcome.longest_wait, 27);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, WidthOverTracesTest, ::testing::Values("qwen", "gptoss", "olmoe"),
                         [](const auto& info) { return std::string(info.param); });

// Eight of 64 experts are a topic's own and take 90% of its choices; a cache of
// 10% holds little more than one topic's. All at once run at half the speed of
// one alone, so this is what turns are for.
TEST_F(WidthOverGatesTest, UnlikeTopicsTakeTurns) {
  const PolicyShape shape{16, 64};
  const TopicTokens topics(shape, 4, 8, 0.9);
  const SimulatedMachine machine{
      .step_seconds = 0.006, .row_seconds = 0.012, .read_seconds = .001, .noise = .2};
  double alone = 0;
  for (const int count : {1, 2, 8}) {
    std::vector<Choices> sequences;
    for (int s = 0; s < count; ++s) sequences.push_back(topics.Sequence(s, s));
    const Outcome outcome = Serve(shape, 102, machine, sequences, 1000 * count);
    if (count == 1) alone = outcome.tokens_per_second();
    // Each turn starts cold, and the bound on waits keeps turns short.
    EXPECT_GT(outcome.tokens_per_second(), 0.85 * alone) << count << " clients";
    EXPECT_LE(outcome.longest_wait, 27);
    if (count > 1) {
      EXPECT_EQ(outcome.width, 1);
    }
  }
}

TEST_F(WidthOverGatesTest, LikeTopicsRunTogether) {
  const PolicyShape shape{16, 64};
  const TopicTokens topics(shape, 4, 8, 0.9);
  const SimulatedMachine machine{
      .step_seconds = 0.006, .row_seconds = 0.012, .read_seconds = .001, .noise = .2};
  std::vector<Choices> sequences;
  for (int s = 0; s < 8; ++s) sequences.push_back(topics.Sequence(0, s));
  const double alone = Serve(shape, 102, machine, {sequences[0]}, 400).tokens_per_second();
  const Outcome outcome = Serve(shape, 102, machine, sequences, 3200);
  EXPECT_GT(outcome.tokens_per_second(), 1.3 * alone);
  EXPECT_EQ(outcome.width, 8);
}

}  // namespace
}  // namespace hostler
