#include "server/bench/trace.h"

#include <filesystem>
#include <fstream>
#include <list>
#include <map>
#include <numeric>
#include <set>
#include <unordered_map>

#include "gtest/gtest.h"

namespace hostler {
namespace {

const std::string kTraces = HOSTLER_SOURCE_DIR "/../shared/data/traces/";

#define SKIP_WITHOUT_TRACES()                                  \
  if (!std::filesystem::exists(kTraces)) {                     \
    GTEST_SKIP() << "no traces at " << kTraces << "; not run"; \
  }

LoadPlan ReadShared(const std::string& name, int limit = 0) {
  absl::StatusOr<LoadPlan> plan = ReadTrace(kTraces + name, limit);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? *std::move(plan) : LoadPlan();
}

absl::StatusOr<LoadPlan> ReadText(const std::string& text, int limit = 0) {
  const std::string path = testing::TempDir() + "/hostler_trace_test.txt";
  std::ofstream(path) << text;
  absl::StatusOr<LoadPlan> plan = ReadTrace(path, limit);
  std::filesystem::remove(path);
  return plan;
}

// An LRU of `capacity` blocks (0: unlimited) under requests that are served
// one by one: the share of prompt blocks found from the prompt's start.
class PrefixCache {
 public:
  explicit PrefixCache(size_t capacity) : capacity_(capacity) {}

  void Serve(const std::vector<uint64_t>& blocks) {
    total_ += blocks.size();
    for (size_t i = 0; i < blocks.size() && where_.contains(blocks[i]); ++i) ++found_;
    for (size_t i = blocks.size(); i-- > 0;) Touch(blocks[i]);
  }
  double percent_found() const { return 100.0 * found_ / total_; }

 private:
  void Touch(uint64_t block) {
    if (auto it = where_.find(block); it != where_.end()) {
      order_.splice(order_.begin(), order_, it->second);
      return;
    }
    order_.push_front(block);
    where_[block] = order_.begin();
    if (capacity_ > 0 && order_.size() > capacity_) {
      where_.erase(order_.back());
      order_.pop_back();
    }
  }

  const size_t capacity_;
  std::list<uint64_t> order_;  // most recent first
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> where_;
  size_t total_ = 0, found_ = 0;
};

// What a prefix cache sees of a prompt: each block's tokens and all before it.
std::vector<uint64_t> ChainedHashes(const std::vector<int32_t>& tokens, int block_tokens) {
  std::vector<uint64_t> hashes;
  uint64_t hash = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    hash = Mix64(hash, tokens[i], i);
    if ((i + 1) % block_tokens == 0 || i + 1 == tokens.size()) hashes.push_back(hash);
  }
  return hashes;
}

TEST(TraceTest, ReadsEveryRowOfTheSharedTraces) {
  SKIP_WITHOUT_TRACES();
  struct Expected {
    const char* file;
    size_t rows;
    int span_s;
    int max_prompt, max_output;
  };
  for (const Expected& e : {Expected{"azure_code_2023.csv", 8068, 2681, 7437, 1899},
                            Expected{"azure_conv_2023.csv", 16495, 2801, 14050, 1000},
                            Expected{"mooncake_conversation.jsonl", 9408, 2829, 124847, 2000},
                            Expected{"mooncake_synthetic.jsonl", 3134, 818, 191374, 842}}) {
    const LoadPlan plan = ReadShared(e.file);
    ASSERT_EQ(plan.requests.size(), e.rows) << e.file;
    EXPECT_NEAR(plan.requests.back().at_s, e.span_s, 1.0) << e.file;
    int max_prompt = 0, max_output = 0;
    for (const PlannedRequest& r : plan.requests) {
      max_prompt = std::max(max_prompt, r.prompt_tokens);
      max_output = std::max(max_output, r.output_tokens);
    }
    EXPECT_EQ(max_prompt, e.max_prompt) << e.file;
    EXPECT_EQ(max_output, e.max_output) << e.file;
  }
}

TEST(TraceTest, LimitTakesTheFirstRows) {
  SKIP_WITHOUT_TRACES();
  const LoadPlan plan = ReadShared("azure_code_2023.csv", 2);
  ASSERT_EQ(plan.requests.size(), 2u);
  EXPECT_EQ(plan.requests[0].prompt_tokens, 4808);
  EXPECT_EQ(plan.requests[1].output_tokens, 8);
  EXPECT_NEAR(plan.requests[1].at_s, 0.052, 1e-9);
}

TEST(TraceTest, PromptsShareExactlyTheBlocksThatTheTraceShares) {
  SKIP_WITHOUT_TRACES();
  struct Expected {
    const char* file;
    size_t capacity;
    double percent;
  };
  for (const Expected& e : {Expected{"mooncake_conversation.jsonl", 10000, 20.80},
                            Expected{"mooncake_conversation.jsonl", 0, 35.46},
                            Expected{"mooncake_synthetic.jsonl", 1000, 2.75},
                            Expected{"mooncake_synthetic.jsonl", 10000, 27.97}}) {
    LoadPlan plan = ReadShared(e.file);
    ASSERT_TRUE(ScaleLengths(16, &plan).ok());
    PrefixCache cache(e.capacity);
    for (const PlannedRequest& r : plan.requests) {
      const std::vector<int32_t> tokens =
          PromptTokens(r, plan.block_tokens, {3, (1 << 30)}, /*seed=*/1);
      ASSERT_EQ(tokens.size(), static_cast<size_t>(r.prompt_tokens));
      cache.Serve(ChainedHashes(tokens, plan.block_tokens));
    }
    EXPECT_NEAR(cache.percent_found(), e.percent, 0.005) << e.file << " " << e.capacity;
  }
}

TEST(TraceTest, SpreadsOnlyTimesOfThreeSecondGrain) {
  SKIP_WITHOUT_TRACES();
  LoadPlan coarse = ReadShared("mooncake_conversation.jsonl");
  SpreadGrain(&coarse);
  EXPECT_TRUE(coarse.spread);
  std::set<int> rows;
  for (size_t i = 0; i < coarse.requests.size(); ++i) {
    rows.insert(coarse.requests[i].index);
    if (i > 0) {
      EXPECT_LE(coarse.requests[i - 1].at_s, coarse.requests[i].at_s);
    }
  }
  EXPECT_EQ(rows.size(), coarse.requests.size());
  // The second row: 3 s * frac(0.618…).
  auto second = std::find_if(coarse.requests.begin(), coarse.requests.end(),
                             [](const auto& r) { return r.index == 1; });
  EXPECT_NEAR(second->at_s, 3 * 0.6180339887, 1e-6);

  LoadPlan fine = ReadShared("mooncake_synthetic.jsonl");
  SpreadGrain(&fine);
  EXPECT_FALSE(fine.spread);
}

TEST(TraceTest, ScalesLengthsUpwardsAndBlocksExactly) {
  absl::StatusOr<LoadPlan> plan =
      ReadText("{\"timestamp\":0,\"input_length\":513,\"output_length\":1,\"hash_ids\":[7,9]}\n");
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(ScaleLengths(64, &*plan).ok());
  EXPECT_EQ(plan->block_tokens, 8);
  EXPECT_EQ(plan->requests[0].prompt_tokens, 9);
  EXPECT_EQ(plan->requests[0].output_tokens, 1);
  EXPECT_EQ(PromptTokens(plan->requests[0], plan->block_tokens, {0, 99}, 1).size(), 9u);
  EXPECT_FALSE(ScaleLengths(3, &*plan).ok());
  EXPECT_FALSE(ScaleLengths(128, &*plan).ok());
}

TEST(TraceTest, SkipsAndCountsWhatTheContextCannotHold) {
  LoadPlan plan = RandomPlan(10, {100, 100}, {28, 28}, 0, 1);
  plan.requests[3].output_tokens = 29;
  SkipLongerThan(128, &plan);
  EXPECT_EQ(plan.requests.size(), 9u);
  EXPECT_EQ(plan.skipped, 1);
}

TEST(TraceTest, RefusesBrokenRowsNamingTheLine) {
  const std::string header = "timestamp_s,context_tokens,generated_tokens\n";
  for (const std::string& text :
       {header + "0.0,1,2\n0.5,x,2\n", header + "0.0,1,2\n0.5,1,2,3\n",
        header + "0.0,1,2\n0.5,-1,2\n", header + "1.0,1,2\n0.5,1,2\n",
        header + "0.0,1,2\n0.5,99999999999,2\n",
        std::string(
            "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[0]}\n"
            "{\"timestamp\":0,\"input_length\":513,\"output_length\":1,\"hash_ids\":[0]}\n"),
        std::string("{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[0]}\n"
                    "{\"timestamp\":0,")}) {
    absl::StatusOr<LoadPlan> plan = ReadText(text);
    ASSERT_FALSE(plan.ok()) << text;
    EXPECT_NE(std::string(plan.status().message()).find(text.starts_with('{') ? ":2:" : ":3:"),
              std::string::npos)
        << plan.status();
  }
  EXPECT_FALSE(ReadText("").ok());
  EXPECT_TRUE(absl::IsNotFound(ReadTrace("/nonexistent/trace", 0).status()));
}

TEST(RandomPlanTest, LengthsFillTheirRangesAndOnlyThem) {
  const LoadPlan plan = RandomPlan(2000, {16, 31}, {1, 4}, 0, 7);
  std::map<int, int> prompts, outputs;
  for (const PlannedRequest& r : plan.requests) {
    ++prompts[r.prompt_tokens];
    ++outputs[r.output_tokens];
  }
  EXPECT_EQ(prompts.size(), 16u);
  EXPECT_EQ(prompts.begin()->first, 16);
  EXPECT_EQ(prompts.rbegin()->first, 31);
  EXPECT_EQ(outputs.size(), 4u);
  for (const auto& [length, count] : outputs) EXPECT_NEAR(count, 500, 100) << length;
}

TEST(RandomPlanTest, PoissonArrivalsHaveTheRateAndItsSpread) {
  const double rate = 5;
  const LoadPlan plan = RandomPlan(20000, {1, 1}, {1, 1}, rate, 3);
  double sum = 0, squares = 0;
  for (size_t i = 1; i < plan.requests.size(); ++i) {
    const double gap = plan.requests[i].at_s - plan.requests[i - 1].at_s;
    ASSERT_GE(gap, 0);
    sum += gap;
    squares += gap * gap;
  }
  const double n = plan.requests.size() - 1, mean = sum / n;
  EXPECT_NEAR(mean, 1 / rate, 0.01);
  EXPECT_NEAR(std::sqrt(squares / n - mean * mean) / mean, 1.0, 0.05);
}

TEST(PromptTokensTest, AreTheSameForTheSameSeedOnly) {
  const LoadPlan plan = RandomPlan(2, {64, 64}, {1, 1}, 0, 1);
  const IntRange ids{3, 4095};
  const auto first = PromptTokens(plan.requests[0], plan.block_tokens, ids, 1);
  EXPECT_EQ(first, PromptTokens(plan.requests[0], plan.block_tokens, ids, 1));
  EXPECT_NE(first, PromptTokens(plan.requests[0], plan.block_tokens, ids, 2));
  EXPECT_NE(first, PromptTokens(plan.requests[1], plan.block_tokens, ids, 1));
  for (int32_t id : first) {
    EXPECT_GE(id, ids.first);
    EXPECT_LE(id, ids.last);
  }
}

TEST(IntRangeTest, ReadsNumbersAndRanges) {
  EXPECT_EQ(ParseIntRange("64", 1)->last, 64);
  EXPECT_EQ(ParseIntRange("16-128", 1)->first, 16);
  EXPECT_EQ(ParseIntRange("16-128", 1)->last, 128);
  for (const char* bad : {"", "0", "a", "1-", "-5", "9-8", "1-2-3", "1.5", "99999999999"}) {
    EXPECT_FALSE(ParseIntRange(bad, 1).ok()) << bad;
  }
}

}  // namespace
}  // namespace hostler
