#include "router/quality/prompt_embedder.h"

#include <atomic>
#include <cmath>
#include <string>
#include <thread>

#include "engine/embed/tiny_bert.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::HasSubstr;
using Milliseconds = std::chrono::milliseconds;

class PromptEmbedderTest : public ::testing::Test {
 protected:
  PromptEmbedderTest() { bert_.Write(directory_); }

  std::unique_ptr<Encoder> Load() const {
    auto encoder = Encoder::Load(directory_.path(), {.threads = 1});
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    return *std::move(encoder);
  }

  // Another for each n below 1,728.
  std::string Text(int n) const {
    std::string text;
    for (int i = 0; i < 3; ++i, n /= 12) text += bert_.words[4 + n % 12] + " ";
    return text;
  }

  struct Counts {
    std::atomic<int> used = 0, skipped = 0, wrong = 0;
  };
  // 16 threads that ask without a pause, 100 times each.
  static void AskAtOnce(PromptEmbedder& embedder, const PromptEmbedderTest& test, Counts* counts) {
    const std::unique_ptr<Encoder> alone = test.Load();
    std::vector<std::vector<float>> expected(100, std::vector<float>(TinyBert::kWidth));
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(alone->Encode(test.Text(i), expected[size_t(i)]).ok());
    }
    std::vector<std::thread> threads;
    for (int t = 0; t < 16; ++t) {
      threads.emplace_back([&, t] {
        std::vector<float> out(TinyBert::kWidth);
        for (int i = 0; i < 100; ++i) {
          const int n = (i * 7 + t) % 100;
          const EmbeddingUse use = embedder.Embed(test.Text(n), out);
          counts->used += use == EmbeddingUse::kUsed;
          counts->skipped += use == EmbeddingUse::kSkipped;
          counts->wrong += use == EmbeddingUse::kUsed && out != expected[size_t(n)];
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  TempDir directory_;
  TinyBert bert_;
};

TEST_F(PromptEmbedderTest, GivesEachOfThoseThatWaitItsOwn) {
  PromptEmbedder embedder(Load(), std::chrono::minutes(1));
  Counts counts;
  AskAtOnce(embedder, *this, &counts);
  EXPECT_EQ(counts.used, 1600);
  EXPECT_EQ(counts.wrong, 0);
}

TEST_F(PromptEmbedderTest, SkipsThoseThatWouldWaitTooLong) {
  PromptEmbedder embedder(Load(), std::chrono::microseconds(0));
  Counts counts;
  AskAtOnce(embedder, *this, &counts);
  EXPECT_EQ(counts.used + counts.skipped, 1600);
  EXPECT_GT(counts.used, 0);
  EXPECT_GT(counts.skipped, 0);
  EXPECT_EQ(counts.wrong, 0);
}

TEST_F(PromptEmbedderTest, NeverSkipsOneThatIsAlone) {
  PromptEmbedder embedder(Load(), std::chrono::microseconds(0));
  std::vector<float> out(TinyBert::kWidth);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(embedder.Embed(Text(i), out), EmbeddingUse::kUsed);
}

TEST_F(PromptEmbedderTest, AFailureIsOfTheBatchAndNotOfTheNext) {
  bert_.tensors["encoder.layer.1.output.LayerNorm.bias"].values[5] = NAN;
  bert_.Write(directory_);
  PromptEmbedder embedder(Load(), Milliseconds(5));
  std::vector<float> out(TinyBert::kWidth);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(embedder.Embed("a b", out), EmbeddingUse::kFailed);
}

TEST_F(PromptEmbedderTest, KindsThatDifferAreToldApart) {
  const PromptEmbedder embedder(Load());
  const EmbeddingKind& have = embedder.kind();
  EXPECT_EQ(have.size, TinyBert::kWidth);
  EXPECT_EQ(have.tokens, TinyBert::kPositions);
  EXPECT_EQ(WhyNotEmbedded(have, have), "");
  EXPECT_EQ(WhyNotEmbedded({}, have), "") << "wants none";
  EXPECT_THAT(WhyNotEmbedded(have, {}), HasSubstr("none is configured"));
  EXPECT_THAT(WhyNotEmbedded({TinyBert::kWidth, "", 0}, have), HasSubstr("unknown encoder"));
  EmbeddingKind other = have;
  other.encoder = "another";
  EXPECT_THAT(WhyNotEmbedded(other, have), HasSubstr("another"));
  other = have;
  other.tokens = 16;
  EXPECT_THAT(WhyNotEmbedded(other, have), HasSubstr("set encoder_tokens to 16"));
}

}  // namespace
}  // namespace hostler
