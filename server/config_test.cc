#include "server/config.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

absl::StatusOr<ServeConfig> Read(const std::string& yaml) {
  ServeConfig config;
  const absl::Status status = ReadYaml(yaml, "hostler.yaml", &config);
  if (!status.ok()) return status;
  return config;
}

std::string ErrorOf(const std::string& yaml) {
  const auto config = Read(yaml);
  EXPECT_TRUE(absl::IsInvalidArgument(config.status())) << yaml;
  return Message(config.status());
}

TEST(ConfigTest, OneEncoderServesAllVirtualModels) {
  const auto config = Read("encoder: /models/minilm\nencoder_tokens: 128\nencoder_wait_ms: 2.5\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->encoder, "/models/minilm");
  EXPECT_EQ(config->encoder_tokens, 128);
  EXPECT_EQ(config->encoder_wait_ms, 2.5);
  EXPECT_EQ(Read("encoder: /models/minilm\n")->encoder_tokens, 64);
  EXPECT_THAT(ErrorOf("encoder_tokens: 2\n"), HasSubstr("encoder_tokens"));
  EXPECT_THAT(ErrorOf("encoder_wait_ms: -1\n"), HasSubstr("encoder_wait_ms"));
}

TEST(ConfigTest, ReadsEveryPart) {
  const auto config = Read(R"(
models:
  - name: large
    path: /models/large/
    price: {input: 0.5, output: 1.5}
    memory: 4GiB
    quantize: q8
  - path: /models/small
memory: 8GiB
expert_memory: 2GiB
threads: 4
precise: true
kernels: portable
kv_type: q8
host: 0.0.0.0
port: 9000
grpc_port: off
max_queue: 10
max_body_size: 1MiB
drain_timeout: 5
admin: off
log_format: json
virtual_models:
  - name: cheap
    policy: static
    rules:
      - {target: small, max_prompt_tokens: 200}
      - target: large
)");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->models.size(), 2u);
  EXPECT_EQ(config->models[0].name, "large");
  EXPECT_EQ(config->models[0].price->output, 1.5);
  EXPECT_EQ(config->models[0].settings.at("memory"), "4GiB");
  EXPECT_EQ(config->models[0].settings.at("quantize"), "q8");
  EXPECT_EQ(config->models[1].name, "small");
  EXPECT_FALSE(config->models[1].price.has_value());
  EXPECT_EQ(config->engine.memory_bytes, 8ull << 30);
  EXPECT_EQ(config->engine.expert_memory_bytes, 2ull << 30);
  EXPECT_EQ(config->engine.threads, 4);
  EXPECT_TRUE(config->engine.precise);
  EXPECT_EQ(config->engine.kernels, "portable");
  EXPECT_EQ(config->engine.kv_type, KvType::kQ8);
  EXPECT_EQ(config->engine.max_queue, 10);
  EXPECT_EQ(config->host, "0.0.0.0");
  EXPECT_EQ(config->port, 9000);
  EXPECT_EQ(config->grpc_port, -1);
  EXPECT_EQ(config->max_body_bytes, 1u << 20);
  EXPECT_EQ(config->drain_timeout_s, 5);
  EXPECT_EQ(config->admin, "off");
  EXPECT_EQ(config->log_format, "json");
  ASSERT_EQ(config->virtual_models->size(), 1u);
  EXPECT_EQ(config->virtual_models->at(0).rules.at(0).max_prompt_tokens, 200);
  EXPECT_EQ(config->virtual_models->at(0).rules.at(1).target, "large");
  EXPECT_TRUE(Validate(*config).ok()) << Validate(*config);
}

TEST(ConfigTest, AnEmptyFileChangesNothing) {
  const auto config = Read("# nothing\n");
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->port, 8000);
  EXPECT_EQ(config->host, "127.0.0.1");
  EXPECT_FALSE(config->virtual_models.has_value());
}

TEST(ConfigTest, UnknownKeysAreErrorsThatNameKeyAndLine) {
  EXPECT_EQ(ErrorOf("port: 1\nmemroy: 8GiB\n"), "hostler.yaml:2: unknown key \"memroy\"");
  EXPECT_EQ(ErrorOf("models:\n  - path: /m\n    colour: red\n"),
            "hostler.yaml:3: unknown key \"colour\"");
  EXPECT_EQ(ErrorOf("models:\n  - path: /m\n    price:\n      inptu: 1\n"),
            "hostler.yaml:4: unknown key \"inptu\"");
  EXPECT_EQ(ErrorOf("models:\n  - path: /m\n    port: 80\n"),
            "hostler.yaml:3: unknown key \"port\"");
}

TEST(ConfigTest, BadValuesAreErrorsThatNameKeyAndLine) {
  EXPECT_THAT(ErrorOf("host: a\nport: 65536\n"), HasSubstr("hostler.yaml:2: port: \"65536\""));
  EXPECT_THAT(ErrorOf("memory: much"), HasSubstr("hostler.yaml:1: memory: "));
  EXPECT_THAT(ErrorOf("quantize: q9"), HasSubstr("quantize: \"q9\" is none of none, q8"));
  EXPECT_THAT(ErrorOf("precise: perhaps"), HasSubstr("precise: "));
  EXPECT_THAT(ErrorOf("port: [1]"), HasSubstr("port: must be a plain value"));
  EXPECT_THAT(ErrorOf("models: /m"), HasSubstr("models: must be a list"));
  EXPECT_THAT(ErrorOf("models: [/m]"), HasSubstr("models[0]: must have keys"));
  EXPECT_THAT(ErrorOf("models:\n  - name: x\n"), HasSubstr("hostler.yaml:2: a model needs a path"));
  EXPECT_THAT(ErrorOf("models: [{path: /m, price: {input: -1}}]"), HasSubstr("input: "));
  EXPECT_THAT(ErrorOf("virtual_models: [{name: a, policy: magic}]"), HasSubstr("policy: "));
  EXPECT_THAT(ErrorOf("virtual_models: [{name: a, rules: [{max_prompt_tokens: 3}]}]"),
              HasSubstr("a rule needs a target"));
  EXPECT_THAT(ErrorOf("port: 1\nport: 2\n"), HasSubstr("hostler.yaml:2: key \"port\""));
  EXPECT_THAT(ErrorOf("a: [1\n"), HasSubstr("hostler.yaml:"));
  EXPECT_THAT(ErrorOf("just words"), HasSubstr("hostler.yaml:1:"));
}

TEST(ConfigTest, EverySettingTakesItsOwnDefault) {
  ServeConfig config;
  for (const Setting& setting : ServeSettings(&config)) {
    if (setting.preset.empty()) continue;
    EXPECT_TRUE(setting.set(setting.preset).ok()) << setting.key;
  }
  const ServeConfig defaults;
  EXPECT_EQ(config.port, defaults.port);
  EXPECT_EQ(config.max_body_bytes, defaults.max_body_bytes);
  EXPECT_EQ(config.engine.max_queue, defaults.engine.max_queue);
  EXPECT_EQ(config.engine.step_tokens, defaults.engine.step_tokens);
}

TEST(ConfigTest, AModelFlagMayNameItsModel) {
  EXPECT_EQ(ParseModelFlag("/models/tiny")->name, "tiny");
  EXPECT_EQ(ParseModelFlag("/models/tiny//")->name, "tiny");
  EXPECT_EQ(ParseModelFlag("a=/models/tiny")->name, "a");
  EXPECT_EQ(ParseModelFlag("a=/models/tiny")->path, "/models/tiny");
  EXPECT_EQ(ParseModelFlag("/models/a=b")->path, "/models/a=b");
  EXPECT_NE(ParseModelFlag(".")->name, ".");
  EXPECT_FALSE(ParseModelFlag("=/models/tiny").ok());
  EXPECT_FALSE(ParseModelFlag("a=").ok());
  EXPECT_FALSE(ParseModelFlag("").ok());
}

TEST(ConfigTest, ValidatesWhatNoSingleValueShows) {
  const auto problem = [](const std::string& yaml) { return Message(Validate(*Read(yaml))); };
  const std::string two = "models: [{path: /a/m}, {path: /b/n}]\n";
  EXPECT_EQ(problem(two), "");
  EXPECT_THAT(problem("port: 1"), HasSubstr("no model"));
  EXPECT_THAT(problem("models: [{path: /a/m}, {path: /b/m}]"), HasSubstr("\"m\""));
  EXPECT_THAT(problem(two + "port: 9000\ngrpc_port: 9000"), HasSubstr("9000"));
  EXPECT_EQ(problem(two + "port: 0\ngrpc_port: 0"), "");
  EXPECT_THAT(problem(two + "virtual_models: [{name: m}]"), HasSubstr("\"m\""));
  EXPECT_THAT(problem(two + "virtual_models: [{name: a}, {name: a}]"), HasSubstr("\"a\""));
  EXPECT_THAT(problem(two + "virtual_models: [{name: a, rules: [{target: x}]}]"),
              HasSubstr("\"x\""));
}

TEST(ConfigTest, ReadsUpstreams) {
  const auto config = Read(R"(
upstreams:
  - name: far
    url: https://api.example.com/v1
    model: large-2
    api_key_env: FAR_KEY
    forward_authorization: true
    price: {input: 2.5, output: 10}
    max_context: 128000
    max_concurrency: 8
    max_queued: 0
    connect_timeout: 0.5
    first_token_timeout: 20
    idle_timeout: 10
    request_timeout: 600
    queue_timeout: 1
    max_event_size: 1MiB
    max_answer_size: 8MiB
    health: {path: /health, interval: 2, timeout: 1, failed_checks: 1, failures: 4,
             error_share: 0.3, min_requests: 7, window: 60, ejection: 5, max_ejection: 50}
  - {name: near, url: "http://127.0.0.1:9000"}
)");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->upstreams.size(), 2u);
  const UpstreamOptions& far = config->upstreams[0];
  EXPECT_EQ(far.url, "https://api.example.com/v1");
  EXPECT_EQ(far.model, "large-2");
  EXPECT_EQ(far.api_key_env, "FAR_KEY");
  EXPECT_TRUE(far.forward_authorization);
  EXPECT_EQ(far.price->output, 10);
  EXPECT_EQ(far.max_context, 128000);
  EXPECT_EQ(far.max_concurrency, 8);
  EXPECT_EQ(far.max_queued, 0);
  EXPECT_EQ(far.connect_timeout_s, 0.5);
  EXPECT_EQ(far.first_token_timeout_s, 20);
  EXPECT_EQ(far.idle_timeout_s, 10);
  EXPECT_EQ(far.request_timeout_s, 600);
  EXPECT_EQ(far.queue_timeout_s, 1);
  EXPECT_EQ(far.max_event_bytes, 1u << 20);
  EXPECT_EQ(far.max_answer_bytes, 8u << 20);
  EXPECT_EQ(far.health.path, "/health");
  EXPECT_EQ(far.health.interval_s, 2);
  EXPECT_EQ(far.health.failures, 4);
  EXPECT_EQ(far.health.error_share, 0.3);
  EXPECT_EQ(far.health.max_ejection_s, 50);
  EXPECT_FALSE(config->upstreams[1].price.has_value());
}

TEST(ConfigTest, BadUpstreamsAreErrorsThatNameKeyAndLine) {
  const auto error = [](const std::string& keys) {
    return ErrorOf("upstreams:\n  - name: far\n    url: http://x\n    " + keys + "\n");
  };
  EXPECT_EQ(error("timeout: 3"), "hostler.yaml:4: unknown key \"timeout\"");
  EXPECT_THAT(error("price: {input: 1}"), HasSubstr("hostler.yaml:4: price: needs both"));
  EXPECT_THAT(error("price: {input: 1, output: -1}"), HasSubstr("output: \"-1\" is not a number"));
  EXPECT_THAT(error("idle_timeout: 0"), HasSubstr("hostler.yaml:4: idle_timeout: "));
  EXPECT_THAT(error("idle_timeout: nan"), HasSubstr("idle_timeout: "));
  EXPECT_THAT(error("max_concurrency: 0"), HasSubstr("max_concurrency: "));
  EXPECT_THAT(error("health: {path: health}"), HasSubstr("path must begin with /"));
  EXPECT_THAT(error("health: {ejection: 9, max_ejection: 8}"), HasSubstr("max_ejection"));
  EXPECT_THAT(error("max_event_size: 0"), HasSubstr("must not be 0"));
  EXPECT_THAT(ErrorOf("upstreams:\n  - url: http://x\n"), HasSubstr("needs a name"));
  EXPECT_THAT(ErrorOf("upstreams:\n  - name: x\n"), HasSubstr("needs a url"));
}

TEST(ConfigTest, UpstreamsAloneAreADeploymentAndPricesAreCompared) {
  const auto problem = [](const std::string& yaml) { return Message(Validate(*Read(yaml))); };
  const std::string priced = "{name: a, url: http://x, price: {input: 1, output: 1}}";
  const std::string unpriced = "{name: b, url: http://x}";
  EXPECT_EQ(problem("upstreams: [" + priced + ", " + unpriced + "]"), "");
  EXPECT_THAT(problem("upstreams: [" + priced + ", " + priced + "]"), HasSubstr("\"a\""));
  EXPECT_THAT(problem("models: [{path: /m/a}]\nupstreams: [" + priced + "]"), HasSubstr("\"a\""));
  EXPECT_THAT(problem("upstreams: [{name: c, url: nowhere}]"), HasSubstr("\"c\": url: "));
  const std::string both = "upstreams: [" + priced + ", " + unpriced + "]\n";
  EXPECT_EQ(problem(both + "virtual_models: [{name: v, rules: [{target: a}]}]"), "");
  EXPECT_THAT(problem(both + "virtual_models: [{name: v, rules: [{target: b}]}]"),
              HasSubstr("\"b\" has none"));
  EXPECT_THAT(problem(both + "virtual_models: [{name: v}]"), HasSubstr("\"b\" has none"));
}

}  // namespace
}  // namespace hostler
