#include "server/commands/text_streams.h"

#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/commands/test_tokenizer.h"

namespace hostler {
namespace {

using testing::HasSubstr;

std::string Tokenize(const TokenizeOptions& options, const std::string& input) {
  std::istringstream in(input);
  std::ostringstream out;
  const absl::Status status = TokenizeStream(TestTokenizer(), options, in, out);
  return status.ok() ? out.str() : "error: " + std::string(status.message());
}

TEST(TokenizeTest, PrintsIdsOfTheTextAsItIs) {
  EXPECT_EQ(Tokenize({}, "ab\n"), "97 98 10\n");
  EXPECT_EQ(Tokenize({.json = true}, "ab\n"), "[97,98,10]\n");
  EXPECT_EQ(Tokenize({}, ""), "\n");
  EXPECT_EQ(Tokenize({.json = true}, ""), "[]\n");
}

TEST(TokenizeTest, SpecialTokensOnlyWhereAskedFor) {
  EXPECT_EQ(Tokenize({}, "<end>"), "60 101 110 100 62\n");
  EXPECT_EQ(Tokenize({.encode = {.parse_special = true}}, "<end>"), "128\n");
  EXPECT_EQ(Tokenize({.encode = {.add_special = true}}, "a"), "97 128\n");
}

TEST(TokenizeTest, DecodesToTheExactText) {
  EXPECT_EQ(Tokenize({.decode = true}, "97 128\n"), "a<end>");
  EXPECT_EQ(Tokenize({.decode = true}, "[97,10]"), "a\n");
  EXPECT_EQ(Tokenize({.decode = true, .json = true}, "97,10"), "\"a\\n\"\n");
  EXPECT_THAT(Tokenize({.decode = true}, "97 x"), HasSubstr("error: 'x' is no token id"));
}

TEST(TokenizeTest, LinesAreJsonBothWays) {
  EXPECT_EQ(Tokenize({.lines = true}, "\"a\\nb\"\n\"\"\n"), "[97,10,98]\n[]\n");
  EXPECT_EQ(Tokenize({.decode = true, .lines = true}, "[97,10,98]\n[]\n"), "\"a\\nb\"\n\"\"\n");
}

TEST(TokenizeTest, ABadLineIsNamed) {
  EXPECT_EQ(Tokenize({.lines = true}, "\"a\"\nb\n"), "error: line 2: not a JSON string");
  EXPECT_THAT(Tokenize({.decode = true, .lines = true}, "[1]\n[-1]\n"), HasSubstr("line 2:"));
}

// Gives back its variables, or refuses as a template does.
class EchoTemplate : public ChatTemplate {
 public:
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& variables) const override {
    if (variables.contains("raise")) return absl::InvalidArgumentError("roles must alternate");
    return variables.dump();
  }
};

TEST(ChatTemplateCommandTest, VariablesReachTheTemplateUnchanged) {
  const std::string variables = R"({"zeta":1,"messages":[],"tools":null,"alpha":{"b":1,"a":2}})";
  EXPECT_EQ(RenderVariables(EchoTemplate(), variables).value(), variables);
  EXPECT_EQ(RenderVariables(EchoTemplate(), "{}").value(), "{}");
  EXPECT_FALSE(RenderVariables(EchoTemplate(), "[1]").ok());
  EXPECT_FALSE(RenderVariables(EchoTemplate(), "{").ok());
}

TEST(ChatTemplateCommandTest, EachLineSucceedsOrFailsByItself) {
  std::istringstream in("{\"a\":\"\\u00e9\"}\n{\"raise\":1}\nnonsense\n{}\n");
  std::ostringstream out;
  RenderLines(EchoTemplate(), in, out);
  EXPECT_EQ(out.str(),
            "{\"text\":\"{\\\"a\\\":\\\"é\\\"}\"}\n"
            "{\"error\":\"roles must alternate\"}\n"
            "{\"error\":\"the input is not a JSON object\"}\n"
            "{\"text\":\"{}\"}\n");
}

}  // namespace
}  // namespace hostler
