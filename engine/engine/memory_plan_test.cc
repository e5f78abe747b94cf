#include "engine/engine/memory_plan.h"

#include "gtest/gtest.h"

namespace hostler {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

MemoryNeeds Needs() {
  MemoryNeeds needs;
  needs.weights = 100 * kMiB;
  needs.work_space = 20 * kMiB;
  needs.kv_block = kMiB / 4;  // 16 KiB a token
  needs.block_tokens = 16;
  needs.slot = kMiB;
  needs.all_experts = 1000 * kMiB;
  needs.layer_experts = 64;
  return needs;
}

TEST(MemoryPlanTest, StaysWithinTheBudget) {
  for (const uint64_t budget : {200u, 300u, 500u, 1000u, 1200u, 5000u}) {
    EngineOptions options;
    options.memory_bytes = budget * kMiB;
    const auto divided = DivideMemory(Needs(), options, 4096, std::nullopt);
    ASSERT_TRUE(divided.ok()) << divided.status();
    const MemoryPlan& plan = divided->plan;
    EXPECT_LE(plan.weights + plan.work_space + plan.kv + plan.experts, plan.budget) << budget;
    EXPECT_GE(plan.experts, kMiB);
    EXPECT_LE(plan.experts, 1000 * kMiB);
  }
}

TEST(MemoryPlanTest, RefusesWhatDoesNotFitWithTheNumbers) {
  EngineOptions options;
  options.memory_bytes = 130 * kMiB;
  const auto divided = DivideMemory(Needs(), options, 4096, std::nullopt);
  EXPECT_EQ(divided.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(divided.status().message());
  EXPECT_NE(message.find("130 MiB"), std::string::npos) << message;
  EXPECT_NE(message.find("100 MiB"), std::string::npos) << message;
}

TEST(MemoryPlanTest, GivesTheExpertsWhatWasAsked) {
  EngineOptions options;
  options.memory_bytes = 2000 * kMiB;
  options.expert_memory_bytes = 70 * kMiB;
  const auto divided = DivideMemory(Needs(), options, 4096, std::nullopt);
  ASSERT_TRUE(divided.ok());
  EXPECT_EQ(divided->plan.experts, 70 * kMiB);
}

TEST(MemoryPlanTest, PinnedExpertsAndASlotFitOrNothingDoes) {
  MemoryNeeds needs = Needs();
  needs.pinned = 190 * kMiB;
  EngineOptions options;
  // 32 MiB of KV, for 2048 tokens, are left beside them, though a quarter of
  // the rest would be 56.
  options.memory_bytes = (100 + 20 + 32 + 191) * kMiB;
  const auto divided = DivideMemory(needs, options, 1 << 20, std::nullopt);
  ASSERT_TRUE(divided.ok()) << divided.status();
  EXPECT_EQ(divided->least_experts, 191 * kMiB);
  EXPECT_EQ(divided->plan.experts, 191 * kMiB);
  options.memory_bytes -= kMiB;
  const absl::Status refused = DivideMemory(needs, options, 1 << 20, std::nullopt).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("190 MiB of them pinned"), std::string::npos) << refused;
  options.memory_bytes = 5000 * kMiB;
  options.expert_memory_bytes = 190 * kMiB;
  const absl::Status too_little = DivideMemory(needs, options, 4096, std::nullopt).status();
  EXPECT_EQ(too_little.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(too_little.message().find("expert_memory is 190 MiB"), std::string::npos) << too_little;
  options.expert_memory_bytes += kMiB;
  EXPECT_TRUE(DivideMemory(needs, options, 4096, std::nullopt).ok());
}

TEST(MemoryPlanTest, EveryExpertMayBePinned) {
  MemoryNeeds needs = Needs();
  needs.pinned = needs.all_experts;
  EngineOptions options;
  options.memory_bytes = 2000 * kMiB;
  const auto divided = DivideMemory(needs, options, 4096, std::nullopt);
  ASSERT_TRUE(divided.ok()) << divided.status();
  EXPECT_EQ(divided->plan.experts, needs.all_experts);
  EXPECT_EQ(divided->least_experts, needs.all_experts);
}

TEST(MemoryPlanTest, SaysWhatFewSlotsCost) {
  EngineOptions options;
  options.memory_bytes = 2000 * kMiB;
  options.expert_memory_bytes = 10 * kMiB;
  const auto few = DivideMemory(Needs(), options, 4096, std::nullopt);
  ASSERT_TRUE(few.ok());
  EXPECT_NE(few->plan.ToString().find("7 waves through 10 slots"), std::string::npos)
      << few->plan.ToString();
  options.expert_memory_bytes = 64 * kMiB;
  EXPECT_EQ(DivideMemory(Needs(), options, 4096, std::nullopt)->plan.ToString().find("waves"),
            std::string::npos);
}

TEST(MemoryPlanTest, ShortensTheContextToWhatKvHolds) {
  EngineOptions options;
  options.memory_bytes = 200 * kMiB;
  const auto divided = DivideMemory(Needs(), options, 1 << 20, std::nullopt);
  ASSERT_TRUE(divided.ok()) << divided.status();
  EXPECT_EQ(divided->max_context, divided->kv_blocks * 16);
  options.max_context = 1 << 20;
  EXPECT_FALSE(DivideMemory(Needs(), options, 1 << 20, std::nullopt).ok());
}

TEST(MemoryPlanTest, ADeviceAndTheHostHaveBudgetsOfTheirOwn) {
  MemoryNeeds needs = Needs();
  needs.host_work_space = 40 * kMiB;
  EngineOptions options;
  options.device = "cuda:1";
  options.memory_bytes = 50 * kMiB;
  const DeviceMemory device{1000 * kMiB, 1500 * kMiB};
  const auto divided = DivideMemory(needs, options, 4096, device);
  ASSERT_TRUE(divided.ok()) << divided.status();
  const MemoryPlan& plan = divided->plan;
  EXPECT_EQ(plan.device, "cuda:1");
  EXPECT_EQ(plan.budget, 900 * kMiB) << "90% of what is free";
  EXPECT_GT(plan.experts, 500 * kMiB);
  EXPECT_LE(plan.weights + plan.work_space + plan.kv + plan.experts, plan.budget);
  EXPECT_EQ(plan.host_budget, 50 * kMiB);
  EXPECT_EQ(plan.host_work_space, 40 * kMiB);
  EXPECT_EQ(plan.host_experts, 10 * kMiB) << "what is left";
  EXPECT_NE(plan.ToString().find("budget 900 MiB on cuda:1"), std::string::npos);
  EXPECT_NE(
      plan.ToString().find("on the host of 50.0 MiB: work space 40.0 MiB, experts 10.0 MiB (1%)"),
      std::string::npos);
  options.device_memory_bytes = 300 * kMiB;
  options.host_expert_memory_bytes = 7 * kMiB;
  EXPECT_EQ(DivideMemory(needs, options, 4096, device)->plan.budget, 300 * kMiB);
  EXPECT_EQ(DivideMemory(needs, options, 4096, device)->plan.host_experts, 7 * kMiB);
  options.host_expert_memory_bytes = 0;
  EXPECT_EQ(DivideMemory(needs, options, 4096, device)->plan.host_experts, 0u);
  options.host_expert_memory_bytes.reset();
  options.memory_bytes = 40 * kMiB + 5;
  EXPECT_EQ(DivideMemory(needs, options, 4096, device)->plan.host_experts, 0u) << "not one";
  options.memory_bytes = 5000 * kMiB;
  EXPECT_EQ(DivideMemory(needs, options, 4096, device)->plan.host_experts, needs.all_experts);
  options.memory_bytes = 0;
  EXPECT_EQ(DivideMemory(Needs(), options, 4096, std::nullopt)->plan.host_experts, 0u);
}

TEST(MemoryPlanTest, SaysWhichSideIsTooSmall) {
  MemoryNeeds needs = Needs();
  needs.host_work_space = 40 * kMiB;
  EngineOptions options;
  options.device = "cuda";
  const DeviceMemory device{1000 * kMiB, 1500 * kMiB};
  const auto refusal = [&] {
    const absl::Status status = DivideMemory(needs, options, 4096, device).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    return std::string(status.message());
  };
  options.memory_bytes = 39 * kMiB;
  EXPECT_NE(refusal().find("memory is 39.0 MiB"), std::string::npos) << refusal();
  EXPECT_NE(refusal().find("40.0 MiB on the host"), std::string::npos) << refusal();
  options.memory_bytes = 100 * kMiB;
  options.host_expert_memory_bytes = 61 * kMiB;
  EXPECT_NE(refusal().find("host_expert_memory is 61.0 MiB"), std::string::npos) << refusal();
  options.host_expert_memory_bytes.reset();
  options.device_memory_bytes = 130 * kMiB;
  EXPECT_NE(refusal().find("the device_memory of 130 MiB"), std::string::npos) << refusal();
  options.device_memory_bytes = 1001 * kMiB;
  EXPECT_NE(refusal().find("only 1000 MiB are free"), std::string::npos) << refusal();
}

TEST(MemoryPlanTest, ADenseModelNeedsNoSlots) {
  MemoryNeeds needs = Needs();
  needs.slot = needs.all_experts = 0;
  EngineOptions options;
  options.memory_bytes = 200 * kMiB;
  const auto divided = DivideMemory(needs, options, 4096, std::nullopt);
  ASSERT_TRUE(divided.ok());
  EXPECT_EQ(divided->plan.experts, 0u);
}

}  // namespace
}  // namespace hostler
