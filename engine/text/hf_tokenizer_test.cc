#include <filesystem>
#include <fstream>
#include <functional>

#include "engine/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hostler {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// The vocabulary of a small byte-level BPE.
json SmallFile() {
  return json::parse(R"({
    "added_tokens": [
      {"id": 20, "content": "<end>", "special": true, "normalized": false},
      {"id": 21, "content": "<tool>", "special": false, "normalized": false}
    ],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel"},
    "model": {
      "type": "BPE",
      "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "abc": 5, "Ġa": 6, "Ã": 7, "©": 8,
                "<": 9, ">": 10, "e": 11, "n": 12, "d": 13, "aa": 14, "aaaa": 15, "t": 16,
                "o": 17, "l": 18, "bc": 19},
      "merges": [["a", "b"], "ab c", ["Ġ", "a"], "a a", "aa aa", "b c"]
    }
  })");
}

class HfTokenizerTest : public testing::Test {
 protected:
  HfTokenizerTest()
      : directory_(testing::TempDir() + "/" +
                   testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::create_directories(directory_);
  }
  ~HfTokenizerTest() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ + "/" + name) << text;
  }

  absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const json& file) {
    Write("tokenizer.json", file.dump());
    return LoadHfTokenizer(directory_);
  }

  std::vector<int32_t> Encode(const json& file, std::string_view text, bool parse_special = false,
                              bool add_special = false) {
    auto tokenizer = Load(file);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    if (!tokenizer.ok()) return {};
    return (*tokenizer)->Encode(text, {parse_special, add_special});
  }

  std::string Failure(const json& file, absl::StatusCode code) {
    auto tokenizer = Load(file);
    EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status();
    return std::string(tokenizer.status().message());
  }
  std::string Invalid(const json& file) {
    return Failure(file, absl::StatusCode::kInvalidArgument);
  }
  std::string Unimplemented(const json& file) {
    return Failure(file, absl::StatusCode::kUnimplemented);
  }

  std::string directory_;
};

TEST_F(HfTokenizerTest, MergesByRankWithinWords) {
  EXPECT_THAT(Encode(SmallFile(), "abc abc"), ElementsAre(5, 3, 5));
  EXPECT_THAT(Encode(SmallFile(), " aabc"), ElementsAre(6, 5));
  EXPECT_THAT(Encode(SmallFile(), "bc ac"), ElementsAre(19, 6, 2));
  EXPECT_THAT(Encode(SmallFile(), ""), IsEmpty());
  EXPECT_THAT(Encode(SmallFile(), "\xC3\xA9"), ElementsAre(7, 8));
}

TEST_F(HfTokenizerTest, LongWordsMergeAsShortOnes) {
  // 30 letters take the short way, 61 the long one.
  EXPECT_THAT(Encode(SmallFile(), std::string(30, 'a')),
              ElementsAre(15, 15, 15, 15, 15, 15, 15, 14));
  std::vector<int32_t> expected(15, 15);
  expected.push_back(0);
  EXPECT_EQ(Encode(SmallFile(), std::string(61, 'a')), expected);
}

TEST_F(HfTokenizerTest, IgnoreMergesTakesAWordThatIsAToken) {
  json file = SmallFile();
  file["model"]["vocab"]["cab"] = 22;
  EXPECT_THAT(Encode(file, "cab"), ElementsAre(2, 4));
  file["model"]["ignore_merges"] = true;
  EXPECT_THAT(Encode(file, "cab"), ElementsAre(22));
  // Added tokens are no words of the model.
  file["normalizer"] = {{"type", "Lowercase"}};
  file["added_tokens"].push_back({{"id", 23}, {"content", "aaa"}, {"normalized", false}});
  EXPECT_THAT(Encode(file, "AAA aaa"), ElementsAre(14, 0, 3, 23));
}

TEST_F(HfTokenizerTest, SpecialTokensAreTextUnlessAskedFor) {
  EXPECT_THAT(Encode(SmallFile(), "ab<end>", true), ElementsAre(4, 20));
  EXPECT_THAT(Encode(SmallFile(), "ab<end>", false), ElementsAre(4, 9, 11, 12, 13, 10));
  EXPECT_THAT(Encode(SmallFile(), "ab<tool>", false), ElementsAre(4, 21));
}

TEST_F(HfTokenizerTest, AddedTokensStripAndKeepToWords) {
  json file = SmallFile();
  file["added_tokens"][1]["lstrip"] = true;
  file["added_tokens"][1]["rstrip"] = true;
  EXPECT_THAT(Encode(file, "a \n<tool>  b"), ElementsAre(0, 21, 1));
  file["added_tokens"][1] = {{"id", 21}, {"content", "cc"}, {"single_word", true}};
  EXPECT_THAT(Encode(file, "cc acc cc"), ElementsAre(21, 6, 2, 2, 3, 21));
}

TEST_F(HfTokenizerTest, NormalizedAddedTokensAreFoundInNormalizedText) {
  json file = SmallFile();
  file["normalizer"] = {{"type", "Lowercase"}};
  file["added_tokens"][1] = {{"id", 21}, {"content", "Tool"}, {"normalized", true}};
  EXPECT_THAT(Encode(file, "ATOOLa"), ElementsAre(0, 21, 0));
  file["added_tokens"][1]["normalized"] = false;
  EXPECT_THAT(Encode(file, "AtoolToola"), ElementsAre(0, 16, 17, 17, 18, 21, 0));
}

TEST_F(HfTokenizerTest, StripAccentsTakesMarksThatTakeSpaceToo) {
  json file = SmallFile();
  file["normalizer"] = {{"type", "StripAccents"}};
  // A nonspacing, a spacing and an enclosing mark.
  EXPECT_THAT(Encode(file,
                     "a\xCC\x81"
                     "b\xE0\xA4\xBF"
                     "c\xE2\x83\x9D"),
              ElementsAre(5));
}

TEST_F(HfTokenizerTest, LongestAddedTokenWins) {
  json file = SmallFile();
  file["added_tokens"].push_back({{"id", 22}, {"content", "<tool>>"}, {"normalized", false}});
  EXPECT_THAT(Encode(file, "<tool>>><tool>"), ElementsAre(22, 10, 21));
}

TEST_F(HfTokenizerTest, BadBytesAreReplacementCharacters) {
  json file = SmallFile();
  file["model"]["vocab"]["ï"] = 22;
  file["model"]["vocab"]["¿"] = 23;
  file["model"]["vocab"]["½"] = 24;
  EXPECT_THAT(Encode(file, "a\xE2\x82"), ElementsAre(0, 22, 23, 24, 22, 23, 24));
}

TEST_F(HfTokenizerTest, ByteFallbackAndUnknownCharacters) {
  json file = SmallFile();
  file["pre_tokenizer"] = nullptr;
  file["model"]["unk_token"] = "o";
  file["model"]["byte_fallback"] = true;
  file["model"]["vocab"]["<0xC3>"] = 22;
  file["model"]["vocab"]["<0xA9>"] = 23;
  EXPECT_THAT(Encode(file, "a\xC3\xA9\xE2\x82\xAC\xE2\x82\xAC"), ElementsAre(0, 22, 23, 17, 17));
  file["model"]["fuse_unk"] = true;
  EXPECT_THAT(Encode(file,
                     "\xE2\x82\xAC\xE2\x82\xAC"
                     "b"),
              ElementsAre(17, 1));
}

TEST_F(HfTokenizerTest, PostProcessorAddsItsTokensWhenAsked) {
  json file = SmallFile();
  file["post_processor"] = json::parse(R"({"type": "Sequence", "processors": [
    {"type": "ByteLevel", "trim_offsets": false},
    {"type": "TemplateProcessing",
     "single": [{"SpecialToken": {"id": "<end>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "t", "type_id": 0}}],
     "pair": [],
     "special_tokens": {"<end>": {"id": "<end>", "ids": [20], "tokens": ["<end>"]},
                        "t": {"id": "t", "ids": [21], "tokens": ["<tool>"]}}}]})");
  EXPECT_THAT(Encode(file, "ab", false, true), ElementsAre(20, 4, 21));
  EXPECT_THAT(Encode(file, "ab", false, false), ElementsAre(4));
  file["post_processor"]["processors"][1]["special_tokens"]["t"]["ids"] = {99};
  EXPECT_THAT(Invalid(file), HasSubstr("no token has id 99"));
}

TEST_F(HfTokenizerTest, SplitBehaviours) {
  json file = SmallFile();
  const auto ids = [&](const char* behavior, bool invert) {
    file["pre_tokenizer"] = {{"type", "Split"},
                             {"pattern", {{"String", "a"}}},
                             {"behavior", behavior},
                             {"invert", invert}};
    return Encode(file, "baabc");
  };
  EXPECT_THAT(ids("Isolated", false), ElementsAre(1, 0, 0, 19));
  EXPECT_THAT(ids("Removed", false), ElementsAre(1, 19));
  EXPECT_THAT(ids("Removed", true), ElementsAre(0, 0));
  EXPECT_THAT(ids("MergedWithPrevious", false), ElementsAre(1, 0, 0, 19));
  EXPECT_THAT(ids("MergedWithNext", false), ElementsAre(1, 0, 5));
  EXPECT_THAT(ids("Contiguous", false), ElementsAre(1, 14, 19));
}

// Every place of the text is tried, and each try reads on to the end: 10^12
// steps, which would run into the test's time limit.
TEST_F(HfTokenizerTest, QuadraticPatternsGiveUp) {
  json file = SmallFile();
  file["pre_tokenizer"] = {{"type", "Split"},
                           {"pattern", {{"Regex", "a+[bc]"}}},
                           {"behavior", "Isolated"},
                           {"invert", false}};
  EXPECT_EQ(Encode(file, std::string(1 << 20, 'a') + "dc").size(), (1 << 18) + 2);
  EXPECT_THAT(Encode(file, "aadab"), ElementsAre(14, 13, 4));
}

TEST_F(HfTokenizerTest, MetaspaceAndByteTokensSpellText) {
  json file = json::parse(R"({
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "byte_fallback": true, "vocab":
      {"▁": 0, "a": 1, "▁a": 2, "<0xC3>": 3, "<0xA9>": 4}, "merges": ["▁ a"]}})");
  auto tokenizer = Load(file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<int32_t> ids = (*tokenizer)->Encode("a a\xC3\xA9", {});
  EXPECT_THAT(ids, ElementsAre(2, 2, 3, 4));
  EXPECT_EQ((*tokenizer)->Decode(ids, false), "a a\xC3\xA9");
}

TEST_F(HfTokenizerTest, ReadsBeginningAndEndFromTheConfiguration) {
  Write("tokenizer_config.json",
        R"({"bos_token": {"content": "<tool>"}, "eos_token": "<end>", "added_tokens_decoder":
            {"30": {"content": "<late>", "special": true}}})");
  auto tokenizer = Load(SmallFile());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_id(), 21);
  EXPECT_EQ((*tokenizer)->eos_id(), 20);
  EXPECT_EQ((*tokenizer)->FindToken("<late>"), 30);
  EXPECT_EQ((*tokenizer)->vocab_size(), 31);
  EXPECT_TRUE((*tokenizer)->IsSpecial(30));
  EXPECT_FALSE((*tokenizer)->IsSpecial(21));
  EXPECT_EQ((*tokenizer)->TokenBytes(25), "");
  EXPECT_EQ((*tokenizer)->TokenBytes(-1), "");
}

TEST_F(HfTokenizerTest, NamesWhatIsInconsistent) {
  const auto with = [](const std::function<void(json&)>& change) {
    json file = SmallFile();
    change(file);
    return file;
  };
  EXPECT_THAT(Invalid(with([](json& f) { f["model"]["vocab"]["x"] = 4; })),
              HasSubstr("id 4 belongs to both 'ab' and 'x'"));
  EXPECT_THAT(Invalid(with([](json& f) { f["model"]["vocab"]["x"] = -4; })), HasSubstr("id -4"));
  EXPECT_THAT(Invalid(with([](json& f) { f["model"]["vocab"]["x"] = uint64_t{1} << 63; })),
              HasSubstr("outside"));
  EXPECT_THAT(Invalid(with([](json& f) { f["model"]["vocab"]["x"] = 1.5; })),
              HasSubstr("must be an integer"));
  EXPECT_THAT(Invalid(with([](json& f) { f["model"]["vocab"] = {1, 2}; })), HasSubstr("'vocab'"));
  EXPECT_THAT(Invalid(with([](json& f) {
                f["model"]["merges"][0] = {"a", "q"};
              })),
              HasSubstr("'q' is not in the vocabulary"));
  EXPECT_THAT(Invalid(with([](json& f) { f["model"]["merges"][1] = "a b c"; })),
              HasSubstr("merge 1 must be two tokens"));
  EXPECT_THAT(Invalid(with([](json& f) { f["model"]["merges"] = 3; })), HasSubstr("'merges'"));
  EXPECT_THAT(Invalid(with([](json& f) { f["model"]["unk_token"] = "?"; })),
              HasSubstr("unk_token '?'"));
  EXPECT_THAT(Invalid(with([](json& f) { f["model"]["byte_fallback"] = "yes"; })),
              HasSubstr("'byte_fallback'"));
  EXPECT_THAT(Invalid(with([](json& f) { f["added_tokens"][0]["id"] = 5; })),
              HasSubstr("both 'abc' and '<end>'"));
  EXPECT_THAT(Invalid(with([](json& f) { f["added_tokens"][0]["content"] = "ab"; })),
              HasSubstr("both id 4 and id 20"));
  EXPECT_THAT(Invalid(with([](json& f) { f["added_tokens"][0].erase("id"); })), HasSubstr("id"));
  EXPECT_THAT(Invalid(with([](json& f) {
                f["pre_tokenizer"] = {{"type", 3}};
              })),
              HasSubstr("'type'"));
  EXPECT_THAT(Invalid(with([](json& f) {
                f["pre_tokenizer"] = {
                    {"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}};
              })),
              HasSubstr("regular expression '(a'"));
  Write("tokenizer.json", "{\"model\":");
  EXPECT_EQ(LoadHfTokenizer(directory_).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(LoadHfTokenizer(directory_ + "/none").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(HfTokenizerTest, NamesWhatIsNotSupported) {
  for (const auto& [part, type] :
       std::vector<std::pair<std::string, std::string>>{{"normalizer", "Mystery"},
                                                        {"pre_tokenizer", "UnicodeScripts"},
                                                        {"post_processor", "Mystery"},
                                                        {"decoder", "CTC"}}) {
    json file = SmallFile();
    file[part] = {{"type", type}};
    EXPECT_THAT(Unimplemented(file), HasSubstr(part + " " + type));
  }
  json file = SmallFile();
  file["model"]["type"] = "Mystery";
  EXPECT_THAT(Unimplemented(file), HasSubstr("model Mystery"));
}

TEST_F(HfTokenizerTest, RefusesEndlessNesting) {
  json file = SmallFile();
  json nested = {{"type", "NFC"}};
  for (int i = 0; i < 1000; ++i) nested = {{"type", "Sequence"}, {"normalizers", {nested}}};
  file["normalizer"] = nested;
  EXPECT_THAT(Invalid(file), HasSubstr("nested too deep"));
}

// -- The sample model's tokenizer against its golden outputs ------------------

class SampleTokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string directory = HOSTLER_SOURCE_DIR "/models/sample-moe";
    if (!std::filesystem::exists(directory + "/tokenizer.json")) {
      GTEST_SKIP() << directory << " is not there";
    }
    auto tokenizer = LoadHfTokenizer(directory);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(SampleTokenizerTest, EncodesAndDecodesTheGoldenPrompts) {
  std::ifstream in(HOSTLER_SOURCE_DIR "/../shared/models/golden/sample-moe.json");
  if (!in) GTEST_SKIP() << "golden outputs are not there";
  const json golden = json::parse(in);
  int checked = 0;
  for (const json& prompt : golden["prompts"]) {
    const auto ids = prompt["prompt_ids"].get<std::vector<int32_t>>();
    const auto text = prompt["text"].get<std::string>();
    EXPECT_EQ(tokenizer_->Encode(text, {.parse_special = true}), ids) << prompt["name"];
    EXPECT_EQ(tokenizer_->Decode(ids, false), text);
    ++checked;
  }
  EXPECT_GT(checked, 3);
}

TEST_F(SampleTokenizerTest, KnowsItsSpecialTokens) {
  EXPECT_EQ(tokenizer_->vocab_size(), 4096);
  EXPECT_EQ(tokenizer_->eos_id(), 2);
  EXPECT_EQ(tokenizer_->bos_id(), std::nullopt);
  EXPECT_TRUE(tokenizer_->IsSpecial(1));
  EXPECT_FALSE(tokenizer_->IsSpecial(3));
  EXPECT_EQ(tokenizer_->FindToken("<|im_start|>"), 1);
}

TEST_F(SampleTokenizerTest, ComposesCharactersFirst) {
  EXPECT_EQ(tokenizer_->Encode("e\xCC\x81", {}), tokenizer_->Encode("\xC3\xA9", {}));
}

TEST_F(SampleTokenizerTest, TextComesBackFromItsTokens) {
  std::string text = "one TWO\r\n  three\t\xE2\x82\xAC \xF0\x9F\x98\x80 1234 it's\n\n";
  for (int i = 0; i < 10; ++i) text += text;
  const std::vector<int32_t> ids = tokenizer_->Encode(text, {});
  EXPECT_EQ(tokenizer_->Decode(ids, false), text);
}

// A word of a million letters must neither overflow a stack or a limit nor
// take quadratic time (which would run into the test's time limit).
TEST_F(SampleTokenizerTest, LongRunsAreOneWord) {
  for (const char* unit : {"a", " ", "1", "\n", "!", "\xE4\xB8\xAD", "e\xCC\x81\xCC\xA3", "aB"}) {
    std::string text;
    while (text.size() < 1000000) text += unit;
    const std::vector<int32_t> ids = tokenizer_->Encode(text, {});
    const std::string back = tokenizer_->Decode(ids, false);
    EXPECT_EQ(tokenizer_->Encode(back, {}).size(), ids.size()) << unit;
    EXPECT_GT(back.size(), text.size() / 2) << unit;
  }
}

}  // namespace
}  // namespace hostler
