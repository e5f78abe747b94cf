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
    const auto divided = DivideMemory(Needs(), options, 4096);
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
  const auto divided = DivideMemory(Needs(), options, 4096);
  EXPECT_EQ(divided.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(divided.status().message());
  EXPECT_NE(message.find("130 MiB"), std::string::npos) << message;
  EXPECT_NE(message.find("100 MiB"), std::string::npos) << message;
}

TEST(MemoryPlanTest, GivesTheExpertsWhatWasAsked) {
  EngineOptions options;
  options.memory_bytes = 2000 * kMiB;
  options.expert_memory_bytes = 70 * kMiB;
  const auto divided = DivideMemory(Needs(), options, 4096);
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
  const auto divided = DivideMemory(needs, options, 1 << 20);
  ASSERT_TRUE(divided.ok()) << divided.status();
  EXPECT_EQ(divided->least_experts, 191 * kMiB);
  EXPECT_EQ(divided->plan.experts, 191 * kMiB);
  options.memory_bytes -= kMiB;
  const absl::Status refused = DivideMemory(needs, options, 1 << 20).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("190 MiB of them pinned"), std::string::npos) << refused;
  options.memory_bytes = 5000 * kMiB;
  options.expert_memory_bytes = 190 * kMiB;
  const absl::Status too_little = DivideMemory(needs, options, 4096).status();
  EXPECT_EQ(too_little.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(too_little.message().find("expert_memory is 190 MiB"), std::string::npos) << too_little;
  options.expert_memory_bytes += kMiB;
  EXPECT_TRUE(DivideMemory(needs, options, 4096).ok());
}

TEST(MemoryPlanTest, EveryExpertMayBePinned) {
  MemoryNeeds needs = Needs();
  needs.pinned = needs.all_experts;
  EngineOptions options;
  options.memory_bytes = 2000 * kMiB;
  const auto divided = DivideMemory(needs, options, 4096);
  ASSERT_TRUE(divided.ok()) << divided.status();
  EXPECT_EQ(divided->plan.experts, needs.all_experts);
  EXPECT_EQ(divided->least_experts, needs.all_experts);
}

TEST(MemoryPlanTest, SaysWhatFewSlotsCost) {
  EngineOptions options;
  options.memory_bytes = 2000 * kMiB;
  options.expert_memory_bytes = 10 * kMiB;
  const auto few = DivideMemory(Needs(), options, 4096);
  ASSERT_TRUE(few.ok());
  EXPECT_NE(few->plan.ToString().find("7 waves through 10 slots"), std::string::npos)
      << few->plan.ToString();
  options.expert_memory_bytes = 64 * kMiB;
  EXPECT_EQ(DivideMemory(Needs(), options, 4096)->plan.ToString().find("waves"), std::string::npos);
}

TEST(MemoryPlanTest, ShortensTheContextToWhatKvHolds) {
  EngineOptions options;
  options.memory_bytes = 200 * kMiB;
  const auto divided = DivideMemory(Needs(), options, 1 << 20);
  ASSERT_TRUE(divided.ok()) << divided.status();
  EXPECT_EQ(divided->max_context, divided->kv_blocks * 16);
  options.max_context = 1 << 20;
  EXPECT_FALSE(DivideMemory(Needs(), options, 1 << 20).ok());
}

TEST(MemoryPlanTest, ADenseModelNeedsNoSlots) {
  MemoryNeeds needs = Needs();
  needs.slot = needs.all_experts = 0;
  EngineOptions options;
  options.memory_bytes = 200 * kMiB;
  const auto divided = DivideMemory(needs, options, 4096);
  ASSERT_TRUE(divided.ok());
  EXPECT_EQ(divided->plan.experts, 0u);
}

}  // namespace
}  // namespace hostler
