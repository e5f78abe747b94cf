#include "engine/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
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

}  // namespace
}  // namespace hostler
