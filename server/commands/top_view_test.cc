#include "server/commands/top_view.h"

#include <algorithm>
#include <sstream>

#include "cache/latency.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

json Reads(uint64_t bytes) {
  return {{"reads", bytes / 1024}, {"bytes", bytes}, {"in_flight", 3}, {"queued", 12}};
}

// A model after `steps` steps of 10 ms.
json Sample(int steps) {
  const uint64_t n = steps;
  json speculative = Reads(n * 2048);
  speculative["useful_bytes"] = n * 1024;
  speculative["wasted_bytes"] = n * 512;
  return {
      {"models",
       {{{"model", "moe"},
         {"running", 8},
         {"waiting", 2},
         {"paused", 0},
         {"prompt_tokens", 0},
         {"generated_tokens", 4 * n},
         {"steps", n},
         {"step_seconds", 0.01 * steps},
         {"kv_blocks", {{"used", 5}, {"total", 20}}},
         {"decode", {{"width", 4}, {"slices", 7}, {"probes", 3}, {"longest_wait_seconds", 1.5}}},
         {"memory",
          {{"budget_bytes", 1000 << 10},
           {"weights_bytes", 100 << 10},
           {"work_space_bytes", 200 << 10},
           {"kv_bytes", 300 << 10},
           {"experts_bytes", 400 << 10},
           {"all_experts_bytes", 800 << 10}}},
         {"experts",
          {{"policy", "learned"},
           {"reader", "io_uring"},
           {"direct_io", true},
           {"locked", false},
           {"resident_bytes", 300 << 10},
           {"hits", 30 * n},
           {"misses", 10 * n},
           {"stall_seconds", 0.0025 * steps},
           {"read_errors", 0},
           {"read_retries", 0},
           {"reads", {{"demand", Reads(n << 20)}, {"speculative", speculative}}},
           {"demand_read_seconds",
            {{"buckets", {{{"le", LatencyHistogram::Bound(10)}, {"count", n}}}}}},
           {"prefetch", {{"least_chance", 0.5}}},
           {"layers",
            {{{"resident_bytes", 0}, {"bytes", 8}},
             {{"resident_bytes", 4}, {"bytes", 8}},
             {{"resident_bytes", 8}, {"bytes", 8}}}}}}}}}};
}

int LongestLine(const std::string& text) {
  std::istringstream lines(text);
  size_t longest = 0;
  for (std::string line; std::getline(lines, line);) {
    longest = std::max<size_t>(longest, std::count_if(line.begin(), line.end(), [](char c) {
                                 return (c & 0xc0) != 0x80;  // a character's first byte
                               }));
  }
  return static_cast<int>(longest);
}

TEST(TopViewTest, RatesAreWhatGrewBetweenTwoAnswers) {
  const std::string frame = RenderFrame(Sample(100), Sample(200), 2, {.width = 100});
  for (const char* text :
       {"moe   8 running, 2 waiting, 0 paused\n", "200.0/s generated", "50.0/s steps", "width 4",
        "7 slices   3 probes   longest wait 1.5 s", "75.0% now   75.0% since start   stall 25.0%",
        "50.0 MiB/s   p50 ", "3 reading, 12 queued", "100 KiB/s   50.0% useful, 25.0% wasted",
        "read from a chance of 0.50", "learned   io_uring, direct   not locked   300 KiB resident",
        "weights 100 KiB", "KV in use 25.0%", "  layers    ▄█\n"}) {
    EXPECT_THAT(frame, HasSubstr(text));
  }
  EXPECT_THAT(frame, Not(HasSubstr("\033")));
}

TEST(TopViewTest, ReadTimesAreThoseBetweenTwoAnswersIfThereWereSome) {
  const json before = Sample(100);
  json now = Sample(100);
  EXPECT_THAT(RenderFrame(before, now, 1, {}), HasSubstr("since start   3 reading"));
  json& buckets = now["models"][0]["experts"]["demand_read_seconds"]["buckets"];
  buckets.push_back({{"le", nullptr}, {"count", 1}});  // slower than any bound
  EXPECT_THAT(RenderFrame(before, now, 1, {.width = 100}), HasSubstr("p50 2.3 s, p99 2.3 s   3"));
}

TEST(TopViewTest, WithoutAnEarlierAnswerThereAreNoRates) {
  const std::string frame = RenderFrame(json(), Sample(100), 1, {});
  EXPECT_THAT(frame, HasSubstr("- generated"));
  EXPECT_THAT(frame, HasSubstr("75.0% since start"));
}

TEST(TopViewTest, ARestartedServerHasNoNegativeRates) {
  EXPECT_THAT(RenderFrame(Sample(500), Sample(1), 1, {}), HasSubstr("0.0/s generated"));
}

TEST(TopViewTest, TheBarDividesTheBudgetOverTheWidth) {
  const std::string frame = RenderFrame(json(), Sample(1), 1, {.width = 31});
  EXPECT_THAT(frame, HasSubstr("  memory   WWSSSSKKKKKKEEEEEEEE\n"));
  json half = Sample(1);
  half["models"][0]["memory"]["budget_bytes"] = 2000 << 10;
  EXPECT_THAT(RenderFrame(json(), half, 1, {.width = 31}),
              HasSubstr("  memory   WSSKKKEEEE..........\n"));
}

TEST(TopViewTest, LinesAreNoLongerThanTheTerminalIsWide) {
  json sample = Sample(1);
  json& layers = sample["models"][0]["experts"]["layers"];
  while (layers.size() < 100) layers.push_back({{"resident_bytes", 1}, {"bytes", 2}});
  sample["models"][0]["model"] = std::string(300, 'm');
  for (const int width : {30, 47, 80, 200}) {
    EXPECT_LE(LongestLine(RenderFrame(Sample(0), sample, 1, {.width = width})), width);
  }
}

TEST(TopViewTest, WithoutUtf8LayersAreDigits) {
  const std::string frame = RenderFrame(json(), Sample(1), 1, {.utf8 = false});
  EXPECT_THAT(frame, HasSubstr("  layers   049\n"));
}

TEST(TopViewTest, ADenseModelHasItsMemoryOnly) {
  json sample = Sample(1);
  sample["models"][0]["experts"] = nullptr;
  const std::string frame = RenderFrame(json(), sample, 1, {});
  EXPECT_THAT(frame, HasSubstr("memory"));
  EXPECT_THAT(frame, Not(HasSubstr("hits")));
}

TEST(TopViewTest, NamesCannotControlTheTerminal) {
  json sample = Sample(1);
  sample["models"][0]["model"] = "a\033[2Jb\n\u009b31m";
  sample["models"][0]["experts"]["policy"] = "\033]0;x\007";
  const std::string frame = RenderFrame(json(), sample, 1, {});
  EXPECT_THAT(frame, HasSubstr("a?[2Jb???31m   8 running"));
  EXPECT_THAT(frame, Not(HasSubstr("\033")));
}

TEST(TopViewTest, OddAnswersDoNoHarm) {
  for (const char* body : {"", "[]", "{}", "null", R"({"models":{}})", "<html>"}) {
    EXPECT_FALSE(ParseCacheAnswer(body).ok()) << body;
  }
  for (const char* body :
       {R"({"models":[]})", R"({"models":[null,1,"x",{}]})",
        R"({"models":[{"model":{},"running":"many","experts":{"layers":[1,{}],"reads":[]}}]})",
        R"({"models":[{"experts":{"demand_read_seconds":{"buckets":[{"le":-1,"count":-9}]},
            "layers":[{"bytes":-1,"resident_bytes":1e99}]},
            "memory":{"budget_bytes":-5,"kv_bytes":1e300}}]})"}) {
    const auto answer = ParseCacheAnswer(body);
    ASSERT_TRUE(answer.ok()) << body;
    EXPECT_LE(LongestLine(RenderFrame(*answer, *answer, 1, {})), 80) << body;
  }
}

}  // namespace
}  // namespace hostler
