#include "router/quality/prompt_embedding.h"

#include "engine/embed/tiny_bert.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

class PromptEmbeddingTest : public ::testing::Test {
 protected:
  PromptEmbeddingTest() {
    TinyBert().Write(directory_);
    auto encoder = Encoder::Load(directory_.path(), {.threads = 1});
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    encoder_ = *std::move(encoder);
  }

  TempDir directory_;
  std::unique_ptr<Encoder> encoder_;
  std::vector<float> storage_;
  RoutePrompt prompt_ = {.text = "what is the sum", .context = "proof"};
};

TEST_F(PromptEmbeddingTest, IsOfTheLastMessageAlone) {
  ASSERT_TRUE(EmbedPrompt(*encoder_, TinyBert::kWidth, &storage_, &prompt_).ok());
  std::vector<float> expected(TinyBert::kWidth);
  ASSERT_TRUE(encoder_->Encode("what is the sum", expected).ok());
  EXPECT_EQ(std::vector<float>(prompt_.embedding.begin(), prompt_.embedding.end()), expected);
}

TEST_F(PromptEmbeddingTest, IsLeftOutWhereNobodyWantsIt) {
  ASSERT_TRUE(EmbedPrompt(*encoder_, 0, &storage_, &prompt_).ok());
  EXPECT_TRUE(prompt_.embedding.empty());
}

TEST_F(PromptEmbeddingTest, OfAnotherSizeIsAnError) {
  const absl::Status status = EmbedPrompt(*encoder_, 384, &storage_, &prompt_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_TRUE(prompt_.embedding.empty());
}

}  // namespace
}  // namespace hostler
