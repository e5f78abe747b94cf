#include "engine/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <random>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hostler {
namespace {

SamplingRule RuleFrom(const nlohmann::json& params) {
  SamplingRule rule;
  rule.temperature = params.value("temperature", 1.0);
  rule.top_k = params.value("top_k", 0);
  rule.top_p = params.value("top_p", 1.0);
  rule.min_p = params.value("min_p", 0.0);
  rule.repetition_penalty = params.value("repetition_penalty", 1.0);
  rule.presence_penalty = params.value("presence_penalty", 0.0);
  rule.frequency_penalty = params.value("frequency_penalty", 0.0);
  if (params.contains("logit_bias")) {
    for (const auto& [id, bias] : params["logit_bias"].items()) {
      rule.logit_bias.emplace_back(std::stoi(id), bias.get<float>());
    }
  }
  return rule;
}

TEST(SamplerTest, GivesTheReferenceDistributions) {
  std::ifstream file(HOSTLER_SOURCE_DIR "/../shared/golden/sampling.json");
  if (!file) GTEST_SKIP() << "needs ../shared/golden/sampling.json";
  const nlohmann::json golden = nlohmann::json::parse(file);
  int cases = 0;
  for (const nlohmann::json& c : golden["cases"]) {
    SCOPED_TRACE(c["name"].get<std::string>());
    const auto logits = c["logits"].get<std::vector<float>>();
    const nlohmann::json& params = c["params"];
    const auto prompt = c.value("prompt", params.value("prompt_tokens", std::vector<int32_t>()));
    const auto output = c.value("output", params.value("output_tokens", std::vector<int32_t>()));
    Sampler sampler(RuleFrom(params), 1, 0, prompt);
    for (int32_t token : output) sampler.Accept(token);
    const std::vector<double> got = sampler.Distribution(logits);
    const auto expected = c["probs"].get<std::vector<double>>();
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_NEAR(got[i], expected[i], 1e-6) << i;
      EXPECT_EQ(got[i] == 0, expected[i] == 0) << i;
    }
    ++cases;
  }
  EXPECT_GE(cases, 40);
}

TEST(SamplerTest, DrawsAsOftenAsTheDistributionSays) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  Sampler sampler({}, 7, 0, {});
  const std::vector<double> expected = sampler.Distribution(logits);
  std::map<int32_t, int> counts;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.Sample(logits, {})];
  for (int id = 0; id < 4; ++id) {
    const double deviation = std::sqrt(expected[id] * (1 - expected[id]) / kDraws);
    EXPECT_NEAR(double(counts[id]) / kDraws, expected[id], 5 * deviation) << id;
  }
}

std::vector<int32_t> Draw(uint64_t seed, uint64_t stream, int count) {
  const std::vector<float> logits(64, 0.0f);
  Sampler sampler({}, seed, stream, {});
  std::vector<int32_t> out;
  for (int i = 0; i < count; ++i) out.push_back(sampler.Sample(logits, {}));
  return out;
}

TEST(SamplerTest, SameSeedSameTokens) {
  EXPECT_EQ(Draw(42, 0, 50), Draw(42, 0, 50));
  EXPECT_NE(Draw(42, 0, 50), Draw(43, 0, 50));
  EXPECT_NE(Draw(42, 0, 50), Draw(42, 1, 50));
}

TEST(SamplerTest, NeverDrawsABannedToken) {
  const std::vector<float> logits = {9.0f, 1.0f, 0.0f};
  const std::vector<int32_t> banned = {0};
  SamplingRule greedy;
  greedy.temperature = 0;
  EXPECT_EQ(Sampler(greedy, 1, 0, {}).Sample(logits, banned), 1);
  Sampler sampler({}, 1, 0, {});
  for (int i = 0; i < 200; ++i) EXPECT_NE(sampler.Sample(logits, banned), 0);
}

// What Sampler's doc says, step by step over the whole vocabulary.
std::vector<double> PlainDistribution(const SamplingRule& rule, const std::vector<float>& logits) {
  std::vector<double> z(logits.begin(), logits.end());
  for (double& value : z) value /= rule.temperature;
  std::vector<double> sorted = z;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  const double cut = rule.top_k > 0 ? sorted[rule.top_k - 1] : sorted.back();
  std::vector<std::pair<double, size_t>> kept;
  double total = 0;
  for (size_t id = 0; id < z.size(); ++id) {
    if (z[id] < cut) continue;
    kept.emplace_back(-std::exp(z[id] - sorted[0]), id);
    total -= kept.back().first;
  }
  std::sort(kept.begin(), kept.end());
  double mass = 0;
  std::vector<double> result(z.size());
  for (const auto& [weight, id] : kept) {
    if (mass >= rule.top_p * total) break;
    mass -= weight;
    result[id] = -weight;
  }
  for (double& p : result) p /= mass;
  return result;
}

TEST(SamplerTest, ALargeVocabularyFollowsTheDefinition) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 2);
  for (const int vocab : {1, 63, 64, 65, 5000, 5003}) {
    std::vector<float> logits(vocab);
    // Rounded, so that many are equal.
    for (float& logit : logits) logit = std::round(normal(random) * 50) / 50;
    for (const int top_k : {0, 1, 7, 63, 200}) {
      if (top_k > vocab) continue;
      for (const double top_p : {1.0, 0.9, 0.3}) {
        SamplingRule rule;
        rule.temperature = 0.8;
        rule.top_k = top_k;
        rule.top_p = top_p;
        const std::vector<double> expected = PlainDistribution(rule, logits);
        const std::vector<double> got = Sampler(rule, 1, 0, {}).Distribution(logits);
        for (int i = 0; i < vocab; ++i) {
          ASSERT_NEAR(got[i], expected[i], 1e-12)
              << i << " of " << vocab << ", top_k " << top_k << ", top_p " << top_p;
        }
      }
    }
    const auto largest = std::max_element(logits.begin(), logits.end());
    SamplingRule greedy;
    greedy.temperature = 0;
    EXPECT_EQ(Sampler(greedy, 1, 0, {}).Sample(logits, {}), largest - logits.begin());
  }
}

TEST(SamplerTest, GreedyTakesTheLowestOfEqualLogits) {
  SamplingRule greedy;
  greedy.temperature = 0;
  EXPECT_EQ(Sampler(greedy, 1, 0, {}).Sample(std::vector<float>{1, 3, 3, 2}, {}), 1);
}

// The `count` strongest, as a device would find them.
std::vector<LogitCandidate> StrongestOf(const std::vector<float>& logits, size_t count) {
  std::vector<LogitCandidate> all;
  for (size_t i = 0; i < logits.size(); ++i) all.push_back({logits[i], static_cast<int32_t>(i)});
  std::sort(all.begin(), all.end(), [](const LogitCandidate& a, const LogitCandidate& b) {
    const bool nan = std::isnan(a.logit);
    if (nan != std::isnan(b.logit)) return nan;
    return a.logit != b.logit && !nan ? a.logit > b.logit : a.id < b.id;
  });
  all.resize(std::min(count, all.size()));
  return all;
}

// Draws from the strongest alone as long as they tell, from whole rows beside.
int ExpectTheSameDraws(const SamplingRule& rule, const std::vector<std::vector<float>>& rows,
                       size_t count, const std::vector<int32_t>& banned) {
  Sampler whole(rule, 11, 3, {}), part(rule, 11, 3, {});
  int told = 0;
  for (const std::vector<float>& row : rows) {
    const int32_t expected = whole.Sample(row, banned);
    const auto drawn = part.SampleFrom(StrongestOf(row, count), int(row.size()), banned);
    told += drawn.has_value();
    EXPECT_EQ(drawn.has_value() ? *drawn : part.Sample(row, banned), expected);
  }
  return told;
}

TEST(SamplerTest, TheStrongestLogitsGiveTheTokenOfTheWholeRow) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal(0, 3);
  for (const int vocab : {1, 40, 300, 1000}) {
    for (const bool ties : {false, true}) {
      std::vector<std::vector<float>> rows(12, std::vector<float>(vocab));
      for (auto& row : rows) {
        for (float& logit : row) {
          logit = normal(random);
          if (ties) logit = std::round(logit * 4) / 4;
        }
      }
      for (const double temperature : {0.0, 0.3, 1.5}) {
        for (const int top_k : {1, 2, 20, 63}) {
          for (const double top_p : {1.0, 0.8}) {
            for (const double min_p : {0.0, 0.05}) {
              SamplingRule rule;
              rule.temperature = temperature;
              rule.top_k = top_k;
              rule.top_p = top_p;
              rule.min_p = min_p;
              for (const auto& banned : {std::vector<int32_t>(), std::vector<int32_t>{0, 3}}) {
                if (int(banned.size()) >= vocab) continue;
                const size_t needed = rule.StrongestNeeded(banned.size());
                ASSERT_GT(needed, 0u);
                const int told = ExpectTheSameDraws(rule, rows, needed, banned);
                EXPECT_TRUE(ties || told == 12) << vocab << " " << top_k << ": " << told;
                ExpectTheSameDraws(rule, rows, 64, banned);
                ExpectTheSameDraws(rule, rows, needed / 2, banned);
              }
            }
          }
        }
      }
    }
  }
}

TEST(SamplerTest, RowsThatAreNotNumbersAreLookedAtWhole) {
  const float infinity = std::numeric_limits<float>::infinity();
  SamplingRule greedy, some;
  greedy.temperature = 0;
  some.top_k = 2;
  for (const SamplingRule& rule : {greedy, some}) {
    for (const float odd : {infinity, std::nanf("")}) {
      EXPECT_EQ(ExpectTheSameDraws(rule, {{1, odd, 3, 2}}, 3, {}), 0);
    }
    // -infinity is never drawn while there is another.
    EXPECT_EQ(ExpectTheSameDraws(rule, {{-infinity, 1, -infinity, 0}}, 3, {}), 1);
    EXPECT_EQ(ExpectTheSameDraws(rule, {{-infinity, -infinity, 5}}, 3, {2}), 0);
  }
}

TEST(SamplerTest, SomeRulesNeedTheWholeRow) {
  SamplingRule rule;
  EXPECT_EQ(rule.StrongestNeeded(0), 0);  // top_p alone: of everything
  rule.top_k = 40;
  EXPECT_EQ(rule.StrongestNeeded(2), 43);
  rule.presence_penalty = 0.5;
  EXPECT_EQ(rule.StrongestNeeded(0), 0);
  EXPECT_FALSE(Sampler(rule, 1, 0, {}).SampleFrom(StrongestOf({1, 2}, 2), 2, {}).has_value());
}

}  // namespace
}  // namespace hostler
