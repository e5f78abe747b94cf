#include "router/quality/routing_data.h"

#include <fstream>

#include "gtest/gtest.h"

namespace hostler {
namespace {

std::string Write(const std::string& name, const std::string& text) {
  const std::string path = testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

std::string Refusal(const std::string& text) {
  const auto read = ReadRoutingData({.files = {Write("bad_train.jsonl", text)}});
  return read.ok() ? "" : std::string(read.status().message());
}

TEST(RoutingData, JoinsPromptsByIdAndSplitsByName) {
  const auto sets = ReadRoutingData(
      {.files = {Write(
                     "gen_train.jsonl",
                     R"({"id":"q","prompt_tokens":3,"correct":{"m":1},"response_tokens":{"m":7}})"),
                 Write("gen_val.jsonl", R"({"id":"r","prompt":"own","correct":{"m":0},"fold":3})")},
       .prompts = {Write("other.jsonl", R"({"id":"q","prompt":"text","subject":"s"})")},
       .prices = Write("models.json", R"({"gen":{"m":{"in":1,"out":2}}})")});
  ASSERT_TRUE(sets.ok()) << sets.status();
  ASSERT_EQ(sets->size(), 1u);
  const RoutingSet& set = sets->front();
  EXPECT_EQ(set.name, "gen");
  ASSERT_EQ(set.rows.size(), 2u);
  EXPECT_EQ(set.rows[0].prompt, "text");
  EXPECT_EQ(set.rows[0].subject, "s");
  EXPECT_EQ(set.rows[1].prompt, "own");
  EXPECT_EQ(set.rows[0].fold, -1);
  EXPECT_EQ(set.rows[1].fold, 3);
  EXPECT_NEAR(set.Cost(set.rows[0], 0, 7), 17e-6, 1e-12);
}

TEST(RoutingData, SaysWhereItIsBad) {
  const std::string good = R"({"id":"1","prompt":"p","correct":{"m":1}})";
  EXPECT_NE(Refusal(good + "\n{").find("bad_train.jsonl:2: not JSON"), std::string::npos);
  EXPECT_NE(Refusal("[]").find(":1: not a JSON object"), std::string::npos);
  EXPECT_NE(Refusal(R"({"prompt":"p"})").find("\"correct\" is not"), std::string::npos);
  EXPECT_NE(Refusal(R"({"prompt":"p","correct":{"m":2}})").find("0 to 1"), std::string::npos);
  EXPECT_NE(Refusal(good + "\n" + R"({"prompt":"p","correct":{"n":1}})").find(":2: "),
            std::string::npos);
  EXPECT_NE(Refusal(R"({"id":"x","correct":{"m":1}})").find("--prompts"), std::string::npos);
  for (const char* fold : {"-1", "50", "1.5", "\"2\""}) {
    const std::string row = R"({"id":"1","prompt":"p","correct":{"m":1},"fold":)";
    EXPECT_NE(Refusal(row + fold + "}").find("\"fold\" is not"), std::string::npos) << fold;
  }
  EXPECT_NE(Refusal("\n").find("no rows"), std::string::npos);
  EXPECT_FALSE(ReadRoutingData({.files = {"/none"}}).ok());
}

}  // namespace
}  // namespace hostler
