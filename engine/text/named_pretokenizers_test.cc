#include "engine/text/named_pretokenizers.h"

#include "engine/text/byte_level.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::ElementsAre;

std::vector<std::string> Cut(const std::string& name, const std::string& text) {
  absl::StatusOr<NamedPreTokenizer> found = FindPreTokenizer(name);
  EXPECT_TRUE(found.ok()) << found.status();
  if (!found.ok()) return {};
  Words words{.text = text, .parts = {{0, text.size()}}};
  found->steps->Apply(&words);
  std::vector<std::string> cut;
  for (const TextRange& part : words.parts) {
    cut.push_back(
        ByteLevelToBytes(words.text.substr(part.begin, part.end - part.begin)).value_or("?"));
  }
  return cut;
}

TEST(NamedPreTokenizersTest, CutWordsNumbersAndCaseAsEachFamilyDoes) {
  const std::string text = "IT'S HelloWorld 1234!\n";
  EXPECT_THAT(Cut("gpt-2", text), ElementsAre("IT", "'", "S", " HelloWorld", " 1234", "!", "\n"));
  EXPECT_THAT(Cut("smollm", text),
              ElementsAre("IT", "'", "S", " HelloWorld", " ", "1", "2", "3", "4", "!", "\n"));
  EXPECT_THAT(Cut("llama-bpe", text),
              ElementsAre("IT", "'S", " HelloWorld", " ", "123", "4", "!\n"));
  EXPECT_THAT(Cut("qwen2", text),
              ElementsAre("IT", "'S", " HelloWorld", " ", "1", "2", "3", "4", "!\n"));
  for (const char* name : {"gpt-4o", "kimi-k2"}) {
    EXPECT_THAT(Cut(name, text), ElementsAre("IT'S", " Hello", "World", " ", "123", "4", "!\n"));
  }
  EXPECT_THAT(Cut("tekken", text),
              ElementsAre("IT", "'S", " Hello", "World", " ", "1", "2", "3", "4", "!\n"));
  EXPECT_THAT(Cut("deepseek-v3", text),
              ElementsAre("IT", "'S", " HelloWorld", " ", "123", "4", "!\n"));
  EXPECT_THAT(Cut("deepseek-llm", text),
              ElementsAre("IT", "'", "S", " HelloWorld", " ", "1234", "!", "\n"));
  EXPECT_THAT(Cut("falcon", text),
              ElementsAre("IT", "'", "S", " HelloWorld", " ", "123", "4", "!", "\n"));
}

TEST(NamedPreTokenizersTest, CutChineseFromLatinWhereTheFamilyDoes) {
  const std::string text = "中文abc中文";
  for (const char* name : {"kimi-k2", "deepseek-v3", "deepseek-llm"}) {
    EXPECT_THAT(Cut(name, text), ElementsAre("中文", "abc", "中文")) << name;
  }
  EXPECT_THAT(Cut("qwen2", text), ElementsAre(text));
}

TEST(NamedPreTokenizersTest, LoseNothing) {
  std::string text =
      "Ab's  x\u0301é 1½٣ ,;«»—\t\r\n\n  ない 한국어 ЖдЁ ǅ 👍🏽!?  end ";
  while (text.size() < 100'000) text += text;
  text += std::string(100'000, 'A') + std::string(100'000, ' ') + std::string(100'000, 'b');
  for (const char* name :
       {"bailingmoe", "bloom",     "default",    "deepseek-coder", "deepseek-llm", "deepseek-v3",
        "exaone-moe", "falcon",    "glm4",       "gpt-2",          "gpt-4o",       "kimi-k2",
        "laguna",     "llama-bpe", "minimax-m2", "qwen2",          "qwen35",       "seed-coder",
        "starcoder",  "tekken",    "viking"}) {
    std::string joined;
    for (const std::string& word : Cut(name, text)) joined += word;
    EXPECT_TRUE(joined == text) << name;
  }
}

TEST(NamedPreTokenizersTest, NameTheOneTheyLack) {
  const absl::Status status = FindPreTokenizer("martian").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("martian"));
}

}  // namespace
}  // namespace hostler
