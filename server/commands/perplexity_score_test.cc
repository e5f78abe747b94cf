#include "server/commands/perplexity_score.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/commands/test_tokenizer.h"

namespace hostler {
namespace {

using testing::ElementsAre;

constexpr int kVocab = 128;

// Logits that give every token the same probability.
std::vector<float> Even(size_t tokens) { return std::vector<float>(tokens * kVocab, 0.25f); }

TEST(PerplexityTest, EvenGuessesScoreTheVocabularySize) {
  const PerplexityScore score =
      ScoreWindows(
          std::vector<int32_t>(10, 65), Windows{.tokens = 4}, kVocab, TestTokenizer(),
          [](const std::vector<int32_t>& t) { return Even(t.size()); }, nullptr)
          .value();
  EXPECT_NEAR(score.perplexity(), kVocab, 1e-9);
  EXPECT_NEAR(score.bits_per_byte(), 7, 1e-9);  // one byte a token, log2(128)
}

TEST(PerplexityTest, WindowsDoNotOverlapAndTheirFirstTokensAreNotScored) {
  std::vector<std::vector<int32_t>> windows;
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  auto score = ScoreWindows(
      ids, Windows{.tokens = 4}, kVocab, TestTokenizer(),
      [&](const std::vector<int32_t>& t) {
        windows.push_back(t);
        return Even(t.size());
      },
      nullptr);
  EXPECT_THAT(windows,
              ElementsAre(ElementsAre(1, 2, 3, 4), ElementsAre(5, 6, 7, 8), ElementsAre(9, 10)));
  EXPECT_EQ(score->tokens, 3 + 3 + 1);
  EXPECT_EQ(score->bytes, 7);
}

TEST(PerplexityTest, ALastWindowOfOneTokenIsLeftOut) {
  int calls = 0;
  auto score = ScoreWindows(
      std::vector<int32_t>(9, 65), Windows{.tokens = 4}, kVocab, TestTokenizer(),
      [&](const std::vector<int32_t>& t) {
        ++calls;
        return Even(t.size());
      },
      nullptr);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(score->tokens, 6);
}

TEST(PerplexityTest, EachTokenIsJudgedByTheRowBeforeIt) {
  // Row i is sure of id 10 + i + 1, which is what stands at i + 1.
  auto sure = [](const std::vector<int32_t>& t) {
    std::vector<float> rows(t.size() * kVocab, 0.0f);
    for (size_t i = 0; i < t.size(); ++i) rows[i * kVocab + 10 + i + 1] = 50.0f;
    return rows;
  };
  const std::vector<int32_t> ids = {10, 11, 12, 13};
  EXPECT_NEAR(
      ScoreWindows(ids, Windows{.tokens = 4}, kVocab, TestTokenizer(), sure, nullptr)->perplexity(),
      1, 1e-9);
}

TEST(PerplexityTest, SpecialTokensCountTheirBytes) {
  auto score = ScoreWindows(
      std::vector<int32_t>{65, TestTokenizer::kEnd, 66}, Windows{.tokens = 4}, kVocab + 1,
      TestTokenizer(),
      [](const std::vector<int32_t>& t) { return std::vector<float>(t.size() * (kVocab + 1)); },
      nullptr);
  EXPECT_EQ(score->bytes, 5 + 1);  // "<end>" and one letter
}

TEST(PerplexityTest, LossIsExactForLargeLogits) {
  const std::vector<float> logits = {1000.0f, 1001.0f, -1000.0f};
  EXPECT_NEAR(TokenLoss(logits, 0), 1 + std::log1p(std::exp(-1.0)), 1e-12);
  EXPECT_NEAR(TokenLoss(logits, 2), 2001 + std::log1p(std::exp(-1.0)), 1e-9);
}

TEST(PerplexityTest, EngineErrorsEndTheScoring) {
  auto failing = [](const std::vector<int32_t>&) -> absl::StatusOr<std::vector<float>> {
    return absl::DataLossError("disk");
  };
  const std::vector<int32_t> ids = {1, 2, 3};
  EXPECT_EQ(ScoreWindows(ids, Windows{.tokens = 2}, kVocab, TestTokenizer(), failing, nullptr)
                .status()
                .code(),
            absl::StatusCode::kDataLoss);
  EXPECT_FALSE(ScoreWindows(std::vector<int32_t>{1}, Windows{.tokens = 2}, kVocab, TestTokenizer(),
                            failing, nullptr)
                   .ok());
}

TEST(PerplexityTest, LlamaCppsWindowsBeginWithBosAndScoreTheirSecondHalf) {
  std::vector<std::vector<int32_t>> windows;
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  auto score = ScoreWindows(
      ids, {.tokens = 4, .context = 3, .bos = 99, .whole_only = true}, kVocab, TestTokenizer(),
      [&](const std::vector<int32_t>& t) {
        windows.push_back(t);
        return Even(t.size());
      },
      nullptr);
  EXPECT_THAT(windows, ElementsAre(ElementsAre(99, 2, 3, 4), ElementsAre(99, 6, 7, 8)));
  EXPECT_EQ(score->tokens, 2);
}

}  // namespace
}  // namespace hostler
