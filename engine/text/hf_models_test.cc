// Tokenizers of every kind against Hugging Face's `tokenizers`, and what is
// hostile about the kinds that hf_tokenizer_test.cc does not have.
#include <fstream>

#include "engine/text/hf_tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

std::unique_ptr<Tokenizer> New(const json& file) {
  auto tokenizer = NewHfTokenizer(file, json());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::string Refusal(const json& file) {
  return std::string(NewHfTokenizer(file, json()).status().message());
}

// What testdata/make_tokenizers.py has written.
TEST(HfModelsTest, EncodeAndDecodeAsTheReferenceDoes) {
  std::ifstream in(HOSTLER_SOURCE_DIR "/engine/text/testdata/tokenizers.json");
  ASSERT_TRUE(in);
  const json rows = json::parse(in);
  ASSERT_GT(rows.size(), 5u);
  for (const json& row : rows) {
    SCOPED_TRACE(row["name"]);
    const auto tokenizer = New(row["file"]);
    ASSERT_NE(tokenizer, nullptr);
    for (const json& one : row["cases"]) {
      const auto text = one[0].get<std::string>();
      SCOPED_TRACE(text);
      const auto ids = one[1].get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer->Encode(text, {.parse_special = true, .add_special = true}), ids);
      EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/true), one[2].get<std::string>());
    }
  }
}

json UnigramFile() {
  return json::parse(R"({
    "added_tokens": [{"id": 1, "content": "<s>", "special": true, "normalized": false}],
    "pre_tokenizer": {"type": "Metaspace"}, "decoder": {"type": "Metaspace"},
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["<s>", 0], ["▁", -3],
      ["a", -2], ["b", -2], ["ab", -3.5], ["▁a", -2.5], ["<", -5], ["s", -5], [">", -5]]}})");
}

json WordPieceFile() {
  return json::parse(R"({
    "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": {"type": "WordPiece"},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
      "max_input_chars_per_word": 100,
      "vocab": {"[UNK]": 0, "a": 1, "##a": 2, "##aa": 3, "b": 4, "##b": 5, ".": 6}}})");
}

TEST(HfModelsTest, SpecialTokensAreTextUnlessAskedForInUnigramToo) {
  const auto tokenizer = New(UnigramFile());
  EXPECT_THAT(tokenizer->Encode("<s>", {}), ElementsAre(2, 7, 8, 9));
  EXPECT_THAT(tokenizer->Encode("<s>", {.parse_special = true}), ElementsAre(1));
}

TEST(HfModelsTest, TheLongestPieceComesFirstInWordPiece) {
  const auto tokenizer = New(WordPieceFile());
  const auto ids = tokenizer->Encode("aaab a . caa", {});
  EXPECT_THAT(ids, ElementsAre(1, 3, 5, 1, 6, 0));
  EXPECT_EQ(tokenizer->Decode(ids, true), "aaab a. [UNK]");
}

TEST(HfModelsTest, WordsTooLongAreUnknown) {
  json file = WordPieceFile();
  file["model"]["max_input_chars_per_word"] = 3;
  EXPECT_THAT(New(file)->Encode("aaa aaaa", {}), ElementsAre(1, 3, 0));
}

// Quadratic work would run into the test's time limit.
TEST(HfModelsTest, LongWordsTakeLinearTime) {
  json file = WordPieceFile();
  file["model"]["max_input_chars_per_word"] = uint64_t{1} << 62;
  file["model"]["vocab"]["##" + std::string(500, 'a')] = 7;
  const std::string word(1 << 20, 'a');
  EXPECT_EQ(New(file)->Encode(word, {}).size(), 1 + (word.size() - 1) / 500 + 38);
  EXPECT_EQ(New(UnigramFile())->Encode(word, {}).size(), word.size());
}

json Repeated(const char* list, const json& step, int times) {
  json steps = json::array();
  for (int i = 0; i < times; ++i) steps.push_back(step);
  return {{"type", "Sequence"}, {list, steps}};
}

// Each step doubles the text: 2^60 letters, if nothing stopped it.
TEST(HfModelsTest, TextsDoNotGrowWithoutBounds) {
  const json twice = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  json file = UnigramFile();
  file["normalizer"] = Repeated("normalizers", Repeated("normalizers", twice, 6), 10);
  EXPECT_LT(New(file)->Encode("aaaa", {}).size(), size_t{4} << 20);
  file["normalizer"] = twice;
  file["normalizer"]["content"] = std::string(100'000, 'b');
  EXPECT_LT(New(file)->Encode(std::string(10'000, 'a'), {}).size(), size_t{4} << 20);
  file = UnigramFile();
  file["pre_tokenizer"] =
      Repeated("pretokenizers", {{"type", "ByteLevel"}, {"use_regex", false}}, 60);
  EXPECT_LT(New(file)->Encode("\xC3\xA9", {}).size(), size_t{4} << 20);
  file = UnigramFile();
  file["decoder"] = Repeated("decoders", twice, 60);
  EXPECT_LT(New(file)->TokenBytes(3).size(), 4096u);
  file["decoder"] = Repeated("decoders", twice, 65);
  EXPECT_THAT(Refusal(file), HasSubstr("decoder: more than 64 steps"));
  file["normalizer"] = Repeated("normalizers", twice, 65);
  EXPECT_THAT(Refusal(file), HasSubstr("normalizer: more than 64 steps"));
}

TEST(HfModelsTest, NameWhatIsWrong) {
  json file = UnigramFile();
  file["model"]["unk_id"] = 99;
  EXPECT_THAT(Refusal(file), HasSubstr("unk_id 99"));
  file = UnigramFile();
  file["model"]["vocab"][3] = {"a"};
  EXPECT_THAT(Refusal(file), HasSubstr("token 3 must be [text, score]"));
  file["model"]["vocab"][3] = {std::string(513, 'a'), 0};
  EXPECT_THAT(Refusal(file), HasSubstr("token 3 has 513 bytes"));
  file = UnigramFile();
  file["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "?"}};
  EXPECT_THAT(Refusal(file), HasSubstr("not base64"));
  file["normalizer"]["precompiled_charsmap"] = "/////w==";
  EXPECT_THAT(Refusal(file), HasSubstr("does not fit"));
  file = WordPieceFile();
  file["model"]["unk_token"] = "?";
  EXPECT_THAT(Refusal(file), HasSubstr("unk_token '?'"));
  file = WordPieceFile();
  file["model"]["max_input_chars_per_word"] = -1;
  EXPECT_THAT(Refusal(file), HasSubstr("max_input_chars_per_word"));
  file = WordPieceFile();
  file["pre_tokenizer"] = {{"type", "FixedLength"}, {"length", 0}};
  EXPECT_THAT(Refusal(file), HasSubstr("'length'"));
  file["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "__"}};
  EXPECT_THAT(Refusal(file), HasSubstr("must be one character"));
  file = WordPieceFile();
  file["decoder"] = json::parse(R"({"type": "Sequence", "decoders": [
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 0}]})");
  EXPECT_THAT(Refusal(file), HasSubstr("decoder Strip"));
}

}  // namespace
}  // namespace hostler
