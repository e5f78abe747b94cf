#include "engine/text/detokenizer.h"

#include "gtest/gtest.h"

namespace hostler {
namespace {

// Token i stands for the i-th of the given byte strings; the last is special.
class ListTokenizer : public Tokenizer {
 public:
  explicit ListTokenizer(std::vector<std::string> bytes) : bytes_(std::move(bytes)) {}
  int vocab_size() const override { return static_cast<int>(bytes_.size()); }
  std::vector<int32_t> Encode(std::string_view, const EncodeOptions&) const override { return {}; }
  std::string TokenBytes(int32_t id) const override {
    return id >= 0 && id < vocab_size() ? bytes_[id] : std::string();
  }
  bool IsSpecial(int32_t id) const override { return id == vocab_size() - 1; }
  std::optional<int32_t> FindToken(std::string_view) const override { return std::nullopt; }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_id() const override { return std::nullopt; }

 private:
  std::vector<std::string> bytes_;
};

constexpr char kBad[] = "\xEF\xBF\xBD";

TEST(IncrementalDetokenizer, HoldsACharacterBackUntilItIsWhole) {
  ListTokenizer tokens({"a\xF0\x9F", "\x98", "\x80 b", "<end>"});
  IncrementalDetokenizer detokenizer(&tokens, true);
  EXPECT_EQ(detokenizer.Add(0), "a");
  EXPECT_EQ(detokenizer.Add(1), "");
  EXPECT_EQ(detokenizer.Add(2), "\xF0\x9F\x98\x80 b");
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(IncrementalDetokenizer, SkipsSpecialTokensInsideACharacter) {
  ListTokenizer tokens({"\xC3", "\xA9", "<end>"});
  IncrementalDetokenizer skipping(&tokens, true);
  EXPECT_EQ(skipping.Add(0), "");
  EXPECT_EQ(skipping.Add(2), "");
  EXPECT_EQ(skipping.Add(1), "\xC3\xA9");
  IncrementalDetokenizer showing(&tokens, false);
  EXPECT_EQ(showing.Add(0), "");
  EXPECT_EQ(showing.Add(2), std::string(kBad) + "<end>");
}

TEST(IncrementalDetokenizer, BytesThatCannotBecomeACharacterComeOutAtOnce) {
  ListTokenizer tokens({"\xFF", "\xE2\x82", "x", "\xED\xA0\x80", "<end>"});
  IncrementalDetokenizer detokenizer(&tokens, true);
  EXPECT_EQ(detokenizer.Add(0), kBad);
  EXPECT_EQ(detokenizer.Add(1), "");
  EXPECT_EQ(detokenizer.Add(2), std::string(kBad) + "x");
  // A surrogate: three bytes, none of which begins a character.
  EXPECT_EQ(detokenizer.Add(3), std::string(kBad) + kBad + kBad);
}

TEST(IncrementalDetokenizer, FinishReplacesAnUnfinishedCharacter) {
  ListTokenizer tokens({"\xE2\x82", "<end>"});
  IncrementalDetokenizer detokenizer(&tokens, true);
  EXPECT_EQ(detokenizer.Add(0), "");
  EXPECT_EQ(detokenizer.Finish(), kBad);
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(IncrementalDetokenizer, AgreesWithDecodingAllAtOnce) {
  ListTokenizer tokens({"\xE2", "\x82\xAC", "\x80", "z", "\xF4\x90", "\xC0", "<end>"});
  uint32_t state = 1;
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> ids;
    std::string text;
    IncrementalDetokenizer detokenizer(&tokens, round % 2 == 0);
    for (int i = 0; i < 12; ++i) {
      state = state * 1664525 + 1013904223;
      ids.push_back(static_cast<int32_t>((state >> 16) % 8));  // 7 is unknown
      text += detokenizer.Add(ids.back());
    }
    text += detokenizer.Finish();
    EXPECT_EQ(text, tokens.Decode(ids, round % 2 == 0));
  }
}

}  // namespace
}  // namespace hostler
