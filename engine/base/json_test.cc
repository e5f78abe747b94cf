#include "engine/base/json.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::HasSubstr;

std::string Quoted(std::string_view text) {
  std::string json;
  AppendJsonString(text, &json);
  return json;
}

std::string Nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

std::string ErrorOf(std::string_view text) {
  const absl::StatusOr<Json> json = ParseJson(text);
  return json.ok() ? "" : std::string(json.status().message());
}

TEST(ParseJson, BuildsTheTreeInOrder) {
  const std::string text = R"({"b":[1,-2,0.5,true,null],"a":{"x":"é"},"":[]})";
  const absl::StatusOr<Json> json = ParseJson(text);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->dump(), text);
}

TEST(ParseJson, TakesTheLastValueOfAKeyThatStandsTwice) {
  const absl::StatusOr<Json> json = ParseJson(R"({"a":1,"b":2,"a":{"c":3,"c":4}})");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->dump(), R"({"b":2,"a":{"c":4}})");
  EXPECT_EQ(*FindKey(*FindKey(*json, "a"), "c"), 4);
  EXPECT_EQ(FindKey(*json, "x"), nullptr);
}

TEST(ParseJson, RefusesWhatIsNotJson) {
  for (const char* text : {"", "{", "[1,]", "{\"a\" 1}", "nul", "1 2", "{} x", "\"\\x\"", "01"}) {
    EXPECT_THAT(ErrorOf(text), HasSubstr("not valid JSON")) << text;
  }
}

TEST(ParseJson, RefusesWhatIsNotUtf8) {
  EXPECT_THAT(ErrorOf("\"\xff\""), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("\"\xc3\""), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("\"\xed\xa0\x80\""), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("\"\\ud800\""), HasSubstr("not valid JSON"));
}

TEST(ParseJson, RefusesNumbersNoDoubleCanHold) {
  EXPECT_THAT(ErrorOf("[1e999]"), HasSubstr("not valid JSON"));
}

TEST(ParseJson, BoundsTheDepth) {
  EXPECT_EQ(ErrorOf(Nested(64)), "");
  EXPECT_THAT(ErrorOf(Nested(65)), HasSubstr("deeper than 64"));
  EXPECT_THAT(ErrorOf(std::string(1 << 20, '[')), HasSubstr("deeper than 64"));
  std::string objects;
  for (int i = 0; i < 70; ++i) objects += "{\"a\":";
  EXPECT_THAT(ErrorOf(objects), HasSubstr("deeper than 64"));
}

TEST(ParseJson, BoundsTheMemoryOfTheTree) {
  std::string many = "[{}";
  for (int i = 0; i < 3'000'000; ++i) many += ",{}";
  EXPECT_THAT(ErrorOf(many + "]"), HasSubstr("too many JSON values"));
}

TEST(ParseJson, ManyKeysTakeNoQuadraticTime) {
  std::string many = "{\"a\":0";
  for (int i = 0; i < 300'000; ++i) many += ",\"" + std::to_string(i) + "\":0";
  const absl::StatusOr<Json> json = ParseJson(many + "}");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->size(), 300'001);
}

TEST(AppendJsonString, EscapesOnlyWhatMustBe) {
  EXPECT_EQ(Quoted(""), R"("")");
  EXPECT_EQ(Quoted("plain <b>/é😀"), "\"plain <b>/é😀\"");
  EXPECT_EQ(Quoted("a\"b\\c\n\r\t\x01\x1f"), "\"a\\\"b\\\\c\\n\\r\\t\\u0001\\u001f\"");
  EXPECT_EQ(Quoted(std::string_view("\0", 1)), "\"\\u0000\"");
}

TEST(AppendJsonString, ReplacesWhatIsNotUtf8) {
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(Quoted("a\xff"
                   "b"),
            "\"a" + bad + "b\"");
  EXPECT_EQ(Quoted("\xc3"), "\"" + bad + "\"");
  EXPECT_EQ(Quoted("\xe2\x82"), "\"" + bad + bad + "\"");
  EXPECT_EQ(Quoted("\xc0\x80"), "\"" + bad + bad + "\"");
  EXPECT_EQ(Quoted("\xed\xa0\x80"), "\"" + bad + bad + bad + "\"");
  EXPECT_EQ(Quoted("\xf4\x90\x80\x80"), "\"" + bad + bad + bad + bad + "\"");
}

// Whatever the bytes, a strict parser must take the result.
TEST(AppendJsonString, IsAlwaysValidJson) {
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; b += 5) {
      const char bytes[] = {char(a), char(b), '\x80', 'x'};
      const std::string json = Quoted({bytes, sizeof(bytes)});
      EXPECT_TRUE(Json::accept(json)) << a << " " << b;
    }
  }
}

TEST(AppendJsonLogprob, HasAValueForEveryFloat) {
  const auto text = [](float value) {
    std::string json;
    AppendJsonLogprob(value, &json);
    return json;
  };
  EXPECT_EQ(text(-0.5f), "-0.5");
  EXPECT_EQ(text(-std::numeric_limits<float>::infinity()), "-9999");
  EXPECT_EQ(text(std::numeric_limits<float>::quiet_NaN()), "-9999");
  EXPECT_TRUE(Json::accept(text(-1e-20f)));
}

}  // namespace
}  // namespace hostler
