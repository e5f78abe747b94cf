#include "server/deployment.h"

#include "engine/engine/device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using testing::HasSubstr;

constexpr uint64_t kGiB = 1ull << 30;

ModelConfig Model(const std::string& name, std::map<std::string, std::string> settings = {}) {
  return {.name = name, .path = "/models/" + name, .price = {}, .settings = std::move(settings)};
}

ModelInfo Info(uint64_t file_bytes, uint64_t active_parameters = 1000000000) {
  ModelInfo info;
  info.file_bytes = file_bytes;
  info.active_parameters = active_parameters;
  return info;
}

TEST(DeploymentTest, OneModelGetsTheWholeBudget) {
  ServeConfig config;
  config.models = {Model("a")};
  config.engine.memory_bytes = 8 * kGiB;
  config.engine.threads = 3;
  const auto deployment = PlanDeployment(config, {Info(100)});
  ASSERT_TRUE(deployment.ok()) << deployment.status();
  EXPECT_EQ(deployment->models[0].options.memory_bytes, 8 * kGiB);
  EXPECT_EQ(deployment->models[0].options.expert_memory_bytes, 0u);
  EXPECT_EQ(deployment->models[0].options.threads, 3);
  EXPECT_TRUE(deployment->virtual_models.empty());
}

TEST(DeploymentTest, WithoutABudgetThereIsStillOneForAll) {
  ServeConfig config;
  config.models = {Model("a"), Model("b")};
  const auto deployment = PlanDeployment(config, {Info(100), Info(100)});
  ASSERT_TRUE(deployment.ok());
  EXPECT_GT(deployment->models[0].options.memory_bytes, 0u);
  EXPECT_EQ(deployment->models[0].options.memory_bytes, deployment->models[1].options.memory_bytes);
}

TEST(DeploymentTest, DividesMemoryByFileSize) {
  ServeConfig config;
  config.models = {Model("a"), Model("b")};
  config.engine.memory_bytes = 8 * kGiB;
  config.engine.kv_memory_bytes = 4 * kGiB;
  const auto deployment = PlanDeployment(config, {Info(3000), Info(1000)});
  ASSERT_TRUE(deployment.ok());
  EXPECT_EQ(deployment->models[0].options.memory_bytes, 6 * kGiB);
  EXPECT_EQ(deployment->models[1].options.memory_bytes, 2 * kGiB);
  EXPECT_EQ(deployment->models[0].options.kv_memory_bytes, 3 * kGiB);
  EXPECT_EQ(deployment->models[0].options.expert_memory_bytes, 0u);
}

TEST(DeploymentTest, TheCpuComputesUnlessAGpuIsAskedFor) {
  ServeConfig config;
  config.models = {Model("a"), Model("b", {{"device", "cuda:77"}})};
  const auto refused = PlanDeployment(config, {Info(100), Info(100)});
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("device cuda:77"));
  config.models.pop_back();
  const auto deployment = PlanDeployment(config, {Info(100)});
  ASSERT_TRUE(deployment.ok()) << deployment.status();
  EXPECT_EQ(deployment->models[0].options.device, "cpu");
}

TEST(DeploymentTest, ModelsOnAGpuShareItsMemory) {
  if (!CheckDevice("cuda-emulated").ok()) GTEST_SKIP() << "no emulation";
  ServeConfig config;
  config.engine.device = "cuda-emulated";
  config.models = {Model("a"), Model("b"), Model("host", {{"device", "cpu"}}),
                   Model("own", {{"device_memory", "2GiB"}})};
  const std::vector<ModelInfo> infos = {Info(3000), Info(1000), Info(5000), Info(9000)};
  config.engine.device_memory_bytes = 10 * kGiB;
  const auto given = PlanDeployment(config, infos);
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_EQ(given->models[0].options.device_memory_bytes, 6 * kGiB);
  EXPECT_EQ(given->models[1].options.device_memory_bytes, 2 * kGiB);
  EXPECT_EQ(given->models[3].options.device_memory_bytes, 2 * kGiB);
  config.engine.device_memory_bytes = 0;
  const auto free = PlanDeployment(config, infos);
  ASSERT_TRUE(free.ok()) << free.status();
  const uint64_t gpu = (*FindGpu("cuda-emulated"))->free_bytes / 10 * 9;
  EXPECT_EQ(free->models[0].options.device_memory_bytes / 1000, (gpu - 2 * kGiB) / 4 * 3 / 1000);
  config.engine.device_memory_bytes = kGiB;
  EXPECT_EQ(PlanDeployment(config, infos).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(DeploymentTest, OnlyModelsWithExpertsShareExpertMemory) {
  ServeConfig config;
  config.models = {Model("moe"), Model("dense"), Model("larger_moe")};
  config.engine.memory_bytes = 64 * kGiB;
  config.engine.expert_memory_bytes = 8 * kGiB;
  ModelInfo moe = Info(1000);
  moe.moe_layers = 2;
  moe.experts = 16;
  moe.expert_bytes = 10;
  ModelInfo larger = moe;
  larger.expert_bytes = 30;
  const auto deployment = PlanDeployment(config, {moe, Info(5000), larger});
  ASSERT_TRUE(deployment.ok());
  EXPECT_EQ(deployment->models[0].options.expert_memory_bytes, 2 * kGiB);
  EXPECT_EQ(deployment->models[1].options.expert_memory_bytes, 0u);
  EXPECT_EQ(deployment->models[2].options.expert_memory_bytes, 6 * kGiB);
}

TEST(DeploymentTest, WhatAModelNamesForItselfComesOffFirst) {
  ServeConfig config;
  config.models = {Model("a", {{"memory", "5GiB"}, {"quantize", "q8"}}), Model("b"), Model("c")};
  config.engine.memory_bytes = 8 * kGiB;
  const auto deployment = PlanDeployment(config, {Info(9000), Info(2000), Info(1000)});
  ASSERT_TRUE(deployment.ok());
  EXPECT_EQ(deployment->models[0].options.memory_bytes, 5 * kGiB);
  EXPECT_EQ(deployment->models[0].options.quantize, Quantize::kQ8);
  EXPECT_EQ(deployment->models[1].options.memory_bytes, 2 * kGiB);
  EXPECT_EQ(deployment->models[1].options.quantize, Quantize::kNone);
  EXPECT_EQ(deployment->models[2].options.memory_bytes, 1 * kGiB);
}

TEST(DeploymentTest, RefusesSharesBeyondTheBudget) {
  ServeConfig config;
  config.models = {Model("a", {{"memory", "8GiB"}}), Model("b")};
  config.engine.memory_bytes = 8 * kGiB;
  const auto deployment = PlanDeployment(config, {Info(1), Info(1)});
  EXPECT_TRUE(absl::IsInvalidArgument(deployment.status()));
  EXPECT_THAT(std::string(deployment.status().message()), HasSubstr("8.00 GiB"));
}

TEST(DeploymentTest, PricesFollowActiveParametersUnlessConfigured) {
  ServeConfig config;
  config.models = {Model("a"), Model("b")};
  config.models[1].price = Price{7, 9};
  const auto deployment = PlanDeployment(config, {Info(1, 3000000000), Info(1)});
  ASSERT_TRUE(deployment.ok());
  EXPECT_DOUBLE_EQ(deployment->models[0].price.input, 0.3);
  EXPECT_DOUBLE_EQ(deployment->models[0].price.output, 0.3);
  EXPECT_EQ(deployment->models[1].price.output, 9);
}

TEST(DeploymentTest, SeveralModelsHaveAnAutoThatPrefersTheCheapest) {
  ServeConfig config;
  config.models = {Model("large"), Model("small"), Model("huge")};
  config.auto_max_prompt_tokens = 300;
  const std::vector<ModelInfo> infos = {Info(1, 8000), Info(1, 1000), Info(1, 90000)};
  const auto deployment = PlanDeployment(config, infos);
  ASSERT_TRUE(deployment.ok());
  ASSERT_EQ(deployment->virtual_models.size(), 1u);
  const VirtualModelConfig& model = deployment->virtual_models[0];
  EXPECT_EQ(model.name, "auto");
  ASSERT_EQ(model.rules.size(), 3u);
  EXPECT_EQ(model.rules[0].max_prompt_tokens, 0);
  EXPECT_EQ(model.rules[1].target, "small");
  EXPECT_EQ(model.rules[1].max_prompt_tokens, 300);

  config.virtual_models.emplace();
  EXPECT_TRUE(PlanDeployment(config, infos)->virtual_models.empty()) << "an empty list is none";
}

TEST(DeploymentTest, AModelNamedAutoKeepsItsName) {
  ServeConfig config;
  config.models = {Model("auto"), Model("b")};
  EXPECT_TRUE(PlanDeployment(config, {Info(1), Info(1)})->virtual_models.empty());
}

TEST(DeploymentTest, SaysWhyAModelCannotBeServed) {
  ServeConfig config;
  config.models = {Model("a")};
  ModelInfo info = Info(1);
  info.unsupported = {"architecture \"foo\" is not known"};
  const auto deployment = PlanDeployment(config, {info});
  EXPECT_TRUE(absl::IsUnimplemented(deployment.status()));
  EXPECT_THAT(std::string(deployment.status().message()), HasSubstr("\"foo\""));
}

TEST(DeploymentTest, RefusesAFileThatTwoModelsWouldWrite) {
  ServeConfig config;
  config.models = {Model("a"), Model("b")};
  config.engine.memory_bytes = 8 * kGiB;
  ModelInfo moe = Info(100);
  moe.moe_layers = 4;
  EXPECT_TRUE(PlanDeployment(config, {moe, moe}).ok()) << "automatic ones lie apart";
  config.engine.expert_popularity = "/tmp/popularity";
  const absl::Status refused = PlanDeployment(config, {moe, moe}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("/tmp/popularity"));
  EXPECT_TRUE(PlanDeployment(config, {moe, Info(100)}).ok()) << "a dense model writes none";
  config.models[1].settings = {{"expert_popularity", "/tmp/other"}};
  EXPECT_TRUE(PlanDeployment(config, {moe, moe}).ok());
  config.engine.expert_trace = "/tmp/trace";
  EXPECT_TRUE(absl::IsInvalidArgument(PlanDeployment(config, {moe, moe}).status()));
}

TEST(DeploymentTest, AutoChoosesFromUpstreamsThatHaveAPrice) {
  ServeConfig config;
  config.auto_max_prompt_tokens = 300;
  UpstreamOptions upstream;
  upstream.name = "far";
  upstream.price = Price{5, 5};
  config.upstreams = {upstream};
  upstream.name = "free";
  upstream.price = std::nullopt;
  config.upstreams.push_back(upstream);
  EXPECT_TRUE(PlanDeployment(config, {})->virtual_models.empty());
  upstream.name = "near";
  upstream.price = Price{1, 1};
  config.upstreams.push_back(upstream);
  const auto deployment = PlanDeployment(config, {});
  ASSERT_TRUE(deployment.ok()) << deployment.status();
  ASSERT_EQ(deployment->virtual_models.size(), 1u);
  const std::vector<StaticRule>& rules = deployment->virtual_models[0].rules;
  ASSERT_EQ(rules.size(), 2u);
  EXPECT_EQ(rules[0].target, "far");
  EXPECT_EQ(rules[0].max_prompt_tokens, 0);
  EXPECT_EQ(rules[1].target, "near");
  EXPECT_EQ(rules[1].max_prompt_tokens, 300);
}

}  // namespace
}  // namespace hostler
