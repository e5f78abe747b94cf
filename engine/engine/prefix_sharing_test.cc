// The prefix cache in the engine: the same tokens with and without, whoever
// computed a block, and what is said of it.
#include <optional>
#include <string>
#include <vector>

#include "engine/engine/test_engine.h"

namespace hostler {
namespace {

constexpr int kBlock = 16;

EngineOptions Options(bool prefix_cache) {
  EngineOptions options;
  options.memory_bytes = uint64_t{1} << 30;
  options.threads = 1;
  options.prefix_cache = prefix_cache;
  return options;
}

std::vector<int32_t> Random(size_t size, uint32_t seed) {
  std::vector<int32_t> tokens(size);
  for (int32_t& token : tokens) {
    seed = seed * 1664525u + 1013904223u;
    token = 3 + (seed >> 8) % 4000;
  }
  return tokens;
}

std::vector<int32_t> Join(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Prompts that begin alike in many ways: not at all, in a part of a block, in
// whole blocks, in all.
std::vector<GenerateRequest> AlikePrompts(int tokens) {
  const std::vector<int32_t> system = Random(100, 1), other = Random(70, 2);
  std::vector<GenerateRequest> requests;
  for (const std::vector<int32_t>& begin : {system, other}) {
    for (const size_t shared : {size_t{9}, size_t{16}, size_t{17}, size_t{64}, begin.size()}) {
      const std::vector<int32_t> prefix(begin.begin(), begin.begin() + shared);
      for (const size_t own : {0, 1, 15, 40}) {
        requests.push_back(Greedy(Join(prefix, Random(own, uint32_t(shared * 100 + own))), tokens));
      }
    }
  }
  return requests;
}

std::vector<std::vector<int32_t>> TokensOfAll(Engine& engine,
                                              const std::vector<GenerateRequest>& requests,
                                              size_t at_once) {
  std::vector<std::vector<int32_t>> out;
  for (size_t i = 0; i < requests.size(); i += at_once) {
    const auto end = requests.begin() + std::min(requests.size(), i + at_once);
    for (TokensAnswered& answer : AnswerAtOnce(engine, {requests.begin() + i, end})) {
      EXPECT_TRUE(answer.status.ok()) << answer.status;
      out.push_back(std::move(answer.tokens));
    }
  }
  return out;
}

Usage UsageOf(Engine& engine, const GenerateRequest& request) {
  auto stream = engine.Submit(request);
  EXPECT_TRUE(stream.ok()) << stream.status();
  if (!stream.ok()) return {};
  while ((*stream)->Pop().has_value()) {
  }
  EXPECT_TRUE((*stream)->status().ok()) << (*stream)->status();
  return (*stream)->usage();
}

class PrefixSharingTest : public ::testing::TestWithParam<std::string> {};

TEST_P(PrefixSharingTest, ChangesNoToken) {
  const std::vector<GenerateRequest> requests = AlikePrompts(20);
  const auto plain = LoadSample(GetParam(), Options(false));
  ASSERT_NE(plain, nullptr);
  const auto expected = TokensOfAll(*plain, requests, 1);
  EXPECT_EQ(plain->stats().prefix_found_tokens, 0u);
  EXPECT_EQ(plain->stats().kv_blocks_cached, 0);

  EngineOptions options = Options(true);
  for (const int step_tokens : {512, 24}) {
    options.step_tokens = step_tokens;
    for (const size_t at_once : {size_t{1}, size_t{7}, requests.size()}) {
      SCOPED_TRACE(testing::Message() << at_once << " at once, steps of " << step_tokens);
      const auto engine = LoadSample(GetParam(), options);
      ASSERT_NE(engine, nullptr);
      for (int round = 0; round < 2; ++round) {
        EXPECT_EQ(TokensOfAll(*engine, requests, at_once), expected);
      }
      const EngineStats stats = engine->stats();
      EXPECT_GT(stats.prefix_found_tokens, 0u);
      EXPECT_EQ(stats.kv_blocks_used, 0);
      EXPECT_GT(stats.kv_blocks_cached, 0);
    }
  }
}

TEST_P(PrefixSharingTest, ChangesNoTokenWhereBlocksAreShort) {
  const std::vector<GenerateRequest> requests = AlikePrompts(60);
  EngineOptions options = Options(false);
  const auto plain = LoadSample(GetParam(), options);
  ASSERT_NE(plain, nullptr);
  const auto expected = TokensOfAll(*plain, requests, 1);
  options.prefix_cache = true;
  options.max_context = 256;
  for (const uint64_t contexts : {1, 2, 4}) {
    SCOPED_TRACE(contexts);
    options.kv_memory_bytes = 0;
    const auto one = LoadSample(GetParam(), options);
    ASSERT_NE(one, nullptr);
    options.kv_memory_bytes =
        contexts * 256 / kBlock * (one->memory().kv / one->stats().kv_blocks_total);
    const auto engine = LoadSample(GetParam(), options);
    ASSERT_NE(engine, nullptr);
    for (const size_t at_once : {size_t{1}, requests.size()}) {
      EXPECT_EQ(TokensOfAll(*engine, requests, at_once), expected);
    }
    const EngineStats stats = engine->stats();
    EXPECT_GT(stats.prefix_evictions, 0u);
    EXPECT_GT(stats.prefix_found_tokens, 0u);
    EXPECT_EQ(stats.kv_blocks_used, 0);
    if (contexts == 2) {
      EXPECT_GT(stats.preemptions, 0u);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(SampleModels, PrefixSharingTest,
                         ::testing::Values("sample-moe", "sample-dense"), [](const auto& info) {
                           return info.param == "sample-moe" ? "Moe" : "Dense";
                         });

class PrefixUsageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    engine_ = LoadSample("sample-moe", Options(true));
    ASSERT_NE(engine_, nullptr);
  }
  std::unique_ptr<Engine> engine_;
};

TEST_F(PrefixUsageTest, AChatsNextTurnFindsPromptAndAnswer) {
  const std::vector<int32_t> prompt = Random(50, 1);
  const std::vector<int32_t> answer = TokensOf(*engine_, Greedy(prompt, 30));
  const std::vector<int32_t> next = Join(Join(prompt, answer), Random(10, 2));
  const uint64_t computed = engine_->stats().prompt_tokens;
  const Usage usage = UsageOf(*engine_, Greedy(next, 4));
  EXPECT_EQ(usage.prompt_tokens, 90);
  EXPECT_EQ(usage.cached_prompt_tokens, 64);  // of 79 computed, whole blocks
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.prompt_tokens - computed, 90u - 64u);
  EXPECT_EQ(stats.prefix_queried_tokens, 50u + 90u);
  EXPECT_EQ(stats.prefix_found_tokens, 64u);
}

TEST_F(PrefixUsageTest, DifferentSaltsShareNothing) {
  GenerateRequest request = Greedy(Random(50, 1), 4);
  std::vector<std::vector<int32_t>> tokens;
  for (const char* salt : {"", "a", "b"}) {
    request.cache_salt = salt;
    EXPECT_EQ(UsageOf(*engine_, request).cached_prompt_tokens, 0) << salt;
    EXPECT_EQ(UsageOf(*engine_, request).cached_prompt_tokens, 48) << salt;
  }
}

TEST_F(PrefixUsageTest, ScoresOfAPromptAreThoseOfAnUncachedOne) {
  GenerateRequest request = Greedy(Random(50, 1), 4);
  request.prompt_logprobs = 2;
  std::vector<std::vector<PositionLogprobs>> scores;
  for (int i = 0; i < 2; ++i) {
    auto stream = engine_->Submit(request);
    ASSERT_TRUE(stream.ok()) << stream.status();
    while ((*stream)->Pop().has_value()) {
    }
    EXPECT_EQ((*stream)->usage().cached_prompt_tokens, 0);
    scores.push_back((*stream)->prompt().logprobs);
  }
  ASSERT_EQ(scores[0].size(), 49u);
  ASSERT_EQ(scores[1].size(), 49u);
  for (size_t i = 0; i < scores[0].size(); ++i) {
    EXPECT_EQ(scores[0][i].chosen.logprob, scores[1][i].chosen.logprob) << i;
  }
  const auto logits = engine_->Logits(Random(50, 1));
  ASSERT_TRUE(logits.ok()) << logits.status();
  EXPECT_EQ(logits->size(), size_t{50} * engine_->model().vocab);
}

}  // namespace
}  // namespace hostler
