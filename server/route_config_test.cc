#include "server/route_config.h"

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/config.h"

namespace hostler {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr char kModels[] = R"(
models:
  - {name: small, path: /m/small, price: {input: 1, output: 1}}
  - {name: large, path: /m/large, price: {input: 9, output: 9}}
upstreams: [{name: far, url: "http://far"}]
virtual_models:
  - name: auto
    )";
constexpr int kLine = 8;  // of the keys below
constexpr char kTargets[] =
    "targets: [{target: small, quality: 0.6}, {target: large, quality: 0.9}]\n    ";

// What reading the keys says, or else what their contradictions are.
std::string ErrorOf(const std::string& keys) {
  ServeConfig config;
  absl::Status status = ReadYaml(kModels + keys + "\n", "h.yaml", &config);
  if (status.ok()) status = Validate(config);
  return std::string(status.message());
}

std::string ErrorOfPolicy(const std::string& policy, const std::string& keys) {
  return ErrorOf(fmt::format("policy: {}\n    {}{}", policy, kTargets, keys));
}

TEST(RouteConfigTest, ReadsEveryKey) {
  ServeConfig config;
  ASSERT_TRUE(ReadYaml(std::string(kModels) + R"(policy: cost_quality
    router: r.bin
    value: 0.5
    min_quality: 0.25
    max_cost: 0.125
    deadline_ms: 1500
    key_budget: 2
    day_budget: 4
    over_budget: reject
    output_tokens: 64
    affinity: 0.1
    targets: [{target: small, quality_as: tiny, quality: 0.5}]
    shadow: {share: 0.05, target: small, concurrency: 3}
    hedge: {after_ms: 250}
  - {name: b, policy: bandit, prior_weight: 3, explore: 0.25, forget: 0.75, hedge: {after_ms: p95}}
  - {name: c, policy: cascade, judge_logprob: -2, judge_tokens: 8}
)",
                       "h.yaml", &config)
                  .ok());
  const VirtualModelConfig& a = config.virtual_models->at(0);
  EXPECT_EQ(a.policy, "cost_quality");
  EXPECT_EQ(a.router, "r.bin");
  EXPECT_EQ(a.value, 0.5);
  EXPECT_EQ(a.min_quality, 0.25);
  EXPECT_EQ(a.max_cost, 0.125);
  EXPECT_EQ(LimitsOf(a).deadline_s, 1.5);
  EXPECT_EQ(a.key_budget, 2);
  EXPECT_EQ(a.day_budget, 4);
  EXPECT_EQ(a.over_budget, "reject");
  EXPECT_EQ(a.output_tokens, 64);
  EXPECT_EQ(a.affinity, 0.1);
  EXPECT_EQ(a.targets.at(0).quality_as, "tiny");
  EXPECT_EQ(a.targets.at(0).quality, 0.5);
  EXPECT_EQ(a.options.shadow.share, 0.05);
  EXPECT_EQ(a.options.shadow.target, "small");
  EXPECT_EQ(a.options.shadow.concurrency, 3);
  EXPECT_EQ(a.options.hedge->after_s, 0.25);
  EXPECT_THAT(DescribePolicy(a), HasSubstr("; hedged after 250 ms; 5 % to small as well"));
  const VirtualModelConfig& b = config.virtual_models->at(1);
  EXPECT_EQ(b.prior_weight, 3);
  EXPECT_EQ(b.explore, 0.25);
  EXPECT_EQ(b.forget, 0.75);
  ASSERT_TRUE(b.options.hedge.has_value());
  EXPECT_FALSE(b.options.hedge->after_s.has_value());
  const VirtualModelConfig& c = config.virtual_models->at(2);
  EXPECT_EQ(c.judge_logprob, -2);
  EXPECT_EQ(c.judge_tokens, 8);
}

TEST(RouteConfigTest, ValuesOfTheWrongKindOrSizeNameTheirKeyAndLine) {
  struct Case {
    const char* key;
    std::vector<const char*> bad;
  };
  const Case cases[] = {{"policy", {"fastest", "[]"}},
                        {"router", {"\"\"", "{a: b}"}},
                        {"value", {"much", "-1", "nan", "1e10", "[1]"}},
                        {"min_quality", {"good", "-0.1", "1.1", "nan"}},
                        {"max_cost", {"x", "-1", "inf"}},
                        {"deadline_ms", {"soon", "0", "-5", "2e9"}},
                        {"key_budget", {"x", "-0.01"}},
                        {"day_budget", {"x", "-0.01", "{}"}},
                        {"over_budget", {"refuse", "true"}},
                        {"output_tokens", {"x", "0", "2e6"}},
                        {"affinity", {"x", "-1", "1.5"}},
                        {"judge_logprob", {"x", "0.5", "-101"}},
                        {"judge_tokens", {"x", "0", "1.5", "5000"}},
                        {"prior_weight", {"x", "0", "1e7"}},
                        {"explore", {"x", "-1", "11"}},
                        {"forget", {"x", "0.4", "1.01"}},
                        {"targets", {"small", "{target: small}"}},
                        {"rules", {"small", "{target: small}"}},
                        {"shadow", {"0.05", "[]"}},
                        {"hedge", {"200", "[]"}}};
  for (const Case& each : cases) {
    for (const char* bad : each.bad) {
      EXPECT_THAT(ErrorOf(fmt::format("{}: {}", each.key, bad)),
                  StartsWith(fmt::format("h.yaml:{}: {}: ", kLine, each.key)))
          << bad;
    }
  }
  const auto where = [](const std::string& what) {
    return StartsWith(fmt::format("h.yaml:{}: {}", kLine, what));
  };
  EXPECT_THAT(ErrorOf("quality: 1"), where("unknown key \"quality\""));
  EXPECT_THAT(ErrorOf("value: 1\n    value: 2"), HasSubstr("value"));
  EXPECT_THAT(ErrorOf("targets: [{quality: 1}]"), where("an entry needs a target"));
  EXPECT_THAT(ErrorOf("targets: [{target: small, quality: 2}]"), where("quality: "));
  EXPECT_THAT(ErrorOf("targets: [{target: small, quality_as: \"\"}]"), where("quality_as: "));
  EXPECT_THAT(ErrorOf("rules: [{max_prompt_tokens: 3}]"), where("a rule needs a target"));
  EXPECT_THAT(ErrorOf("rules: [{target: small, max_prompt_tokens: -3}]"),
              where("max_prompt_tokens: "));
  EXPECT_THAT(ErrorOf("shadow: {share: 1.5}"), where("share: "));
  EXPECT_THAT(ErrorOf("shadow: {target: small}"), where("shadow needs a share"));
  EXPECT_THAT(ErrorOf("shadow: {share: 0.5, concurrency: 0}"), where("concurrency: "));
  EXPECT_THAT(ErrorOf("shadow: {share: 0.5, model: x}"), where("unknown key \"model\""));
  EXPECT_THAT(ErrorOf("hedge: {}"), where("hedge needs after_ms"));
  EXPECT_THAT(ErrorOf("hedge: {after_ms: 0}"), where("after_ms: "));
  EXPECT_THAT(ErrorOf("hedge: {after_ms: p99}"), where("after_ms: "));
}

TEST(RouteConfigTest, ContradictionsNameTheVirtualModelAndTheKey) {
  const auto is = [](const std::string& what) {
    return StartsWith("virtual model \"auto\": " + what);
  };
  EXPECT_EQ(ErrorOfPolicy("cost_quality", ""), "");
  EXPECT_THAT(ErrorOfPolicy("best_effort", ""), is("best_effort needs a deadline_ms"));
  EXPECT_THAT(ErrorOfPolicy("cost_quality", "min_quality: 0.95"), is("min_quality 0.95 is above"));
  EXPECT_THAT(ErrorOfPolicy("cost_quality", "max_cost: 2\n    day_budget: 1"),
              is("max_cost 2 exceeds day_budget 1"));
  EXPECT_THAT(ErrorOfPolicy("cost_quality", "key_budget: 2\n    day_budget: 1"),
              is("key_budget 2 exceeds day_budget 1"));
  EXPECT_THAT(ErrorOf("policy: bandit"), is("needs a router file, or targets with a quality"));
  EXPECT_THAT(ErrorOf("policy: bandit\n    targets: [{target: small}]"),
              is("\"small\" needs a quality"));
  EXPECT_THAT(ErrorOf("policy: bandit\n    targets: [{target: none, quality: 1}]"),
              is("\"none\" is no model"));
  EXPECT_THAT(ErrorOf("policy: bandit\n    targets: [{target: small, quality: 1}, {target: small, "
                      "quality: 1}]"),
              is("target \"small\" stands twice"));
  EXPECT_THAT(ErrorOf("policy: bandit\n    targets: [{target: far, quality: 1}]"),
              is("upstream \"far\" has no price"));
  EXPECT_THAT(ErrorOfPolicy("cascade", "hedge: {after_ms: 5}"), is("hedge: "));
  EXPECT_THAT(ErrorOfPolicy("cost_quality", "shadow: {share: 0.1, target: far}"),
              is("shadow: \"far\" is none of its targets"));
  EXPECT_THAT(ErrorOf("rules: [{target: small}]\n    shadow: {share: 0.1, target: large}"),
              is("shadow: \"large\" is none of its targets"));
  EXPECT_EQ(ErrorOf("rules: [{target: small}, {target: large}]\n    "
                    "shadow: {share: 0.1, target: large}\n    hedge: {after_ms: 10}"),
            "");
}

TEST(RouteConfigTest, KeysThatAPolicyDoesNotUseAreRefused) {
  struct Case {
    const char* policy;
    const char* key;
    const char* value;
  };
  for (const Case& each : std::initializer_list<Case>{{"cost_quality", "judge_tokens", "4"},
                                                      {"cost_quality", "judge_logprob", "-1"},
                                                      {"cost_quality", "explore", "1"},
                                                      {"cost_quality", "rules", "[]"},
                                                      {"best_effort", "value", "1"},
                                                      {"best_effort", "min_quality", "0.5"},
                                                      {"cascade", "value", "1"},
                                                      {"cascade", "deadline_ms", "100"},
                                                      {"cascade", "prior_weight", "2"},
                                                      {"bandit", "deadline_ms", "100"},
                                                      {"cost_quality", "forget", "0.9"}}) {
    EXPECT_THAT(ErrorOfPolicy(each.policy, fmt::format("{}: {}", each.key, each.value)),
                StartsWith(fmt::format("virtual model \"auto\": {} means nothing to {}", each.key,
                                       each.policy)));
  }
  for (const char* key : {"value: 1", "router: r.bin", "targets: [{target: small}]", "max_cost: 1",
                          "key_budget: 1", "day_budget: 1", "over_budget: reject",
                          "output_tokens: 9", "affinity: 0.1", "min_quality: 0.5"}) {
    EXPECT_THAT(ErrorOf(key), HasSubstr("means nothing to static")) << key;
  }
}

}  // namespace
}  // namespace hostler
