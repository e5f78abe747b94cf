#include "engine/engine/device.h"

#include <string>

#include "engine/engine/model_needs.h"
#include "engine/engine/test_engine.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

using Kind = DeviceName::Kind;

constexpr uint64_t kMiB = uint64_t{1} << 20;
const std::string kMoe = HOSTLER_SOURCE_DIR "/models/sample-moe";

TEST(DeviceNameTest, NamesAreTakenAsWritten) {
  EXPECT_EQ(*ParseDeviceName("cpu"), (DeviceName{Kind::kCpu, 0}));
  EXPECT_EQ(*ParseDeviceName("cuda"), (DeviceName{Kind::kCuda, 0}));
  EXPECT_EQ(*ParseDeviceName("cuda:11"), (DeviceName{Kind::kCuda, 11}));
  EXPECT_EQ(*ParseDeviceName("auto"), (DeviceName{Kind::kAuto, 0}));
  EXPECT_EQ(*ParseDeviceName("cuda-emulated"), (DeviceName{Kind::kEmulated, 0}));
  for (const char* wrong : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999999999", "CPU"}) {
    EXPECT_EQ(ParseDeviceName(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
}

TEST(DeviceTest, TheCpuIsThereAlways) {
  EXPECT_TRUE(CheckDevice("cpu").ok());
  EXPECT_TRUE(CheckDevice("auto").ok());
  EXPECT_EQ(CheckDevice("tpu").code(), absl::StatusCode::kInvalidArgument);
  EngineOptions options;
  const auto choice = ChooseDevice(kMoe, options);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->device, "cpu");
  EXPECT_EQ(choice->why, "");
}

#if !defined(HOSTLER_CUDA) || defined(HOSTLER_CUDA_EMULATED)
TEST(DeviceTest, ABuildWithoutCudaDoesNotPretend) {
  for (const char* device : {"cuda", "cuda:0", "cuda:3"}) {
    const absl::Status status = CheckDevice(device);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << device;
    EXPECT_NE(status.message().find("--preset release-cuda"), std::string::npos) << status;
    EngineOptions options;
    options.device = device;
    EXPECT_EQ(Engine::Load(kMoe, options).status(), status);
  }
  EngineOptions options;
  options.device = "auto";
  const auto choice = ChooseDevice(kMoe, options);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->device, "cpu");
  EXPECT_NE(choice->why.find("--preset release-cuda"), std::string::npos) << choice->why;
  EXPECT_TRUE(Engine::Load(kMoe, options).ok());
}
#endif

#if defined(HOSTLER_CUDA)
#if defined(HOSTLER_CUDA_EMULATED)
constexpr char kGpu[] = "cuda-emulated";
#else
constexpr char kGpu[] = "cuda";
#endif

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status there = CheckDevice(kGpu); !there.ok()) GTEST_SKIP() << there;
    options_.device = kGpu;
    options_.device_memory_bytes = 40 * kMiB;
    options_.memory_bytes = 256 * kMiB;
    options_.max_context = 256;
    options_.max_sequences = 8;
    options_.step_tokens = 64;
  }

  EngineOptions options_;
};

TEST_F(GpuTest, IsListedWithItsMemoryAndItsSpeed) {
  const auto gpu = FindGpu(kGpu);
  ASSERT_TRUE(gpu.ok() && gpu->has_value()) << gpu.status();
  EXPECT_FALSE((*gpu)->name.empty());
  EXPECT_GE((*gpu)->major, 1);
  EXPECT_GT((*gpu)->free_bytes, 0u);
  EXPECT_GE((*gpu)->memory_bytes, (*gpu)->free_bytes);
  if ((*gpu)->emulated) {
    EXPECT_EQ((*gpu)->memory_bytes_s, 128e9);
  }
  const auto speed = MeasureDevice(kGpu, 0.02);
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_GT(speed->memory_bytes_s, 0);
  EXPECT_GT(speed->to_device_bytes_s, 0);
  EXPECT_GT(speed->to_host_bytes_s, 0);
}

TEST_F(GpuTest, PlansAsTheEngineThatServesDivides) {
  const auto planned = PlanModel(kMoe, options_);
  ASSERT_TRUE(planned.ok()) << planned.status();
  auto engine = LoadSample("sample-moe", options_);
  ASSERT_NE(engine, nullptr);
  const MemoryPlan plan = engine->memory();
  EXPECT_EQ(planned->memory.plan.ToString(), plan.ToString());
  EXPECT_EQ(plan.device, kGpu);
  EXPECT_EQ(plan.budget, 40 * kMiB);
  EXPECT_LE(plan.weights + plan.work_space + plan.kv + plan.experts, plan.budget);
  EXPECT_LT(plan.experts, plan.all_experts);
  EXPECT_EQ(plan.host_budget, 256 * kMiB);
  EXPECT_EQ(plan.host_experts, plan.all_experts);
}

TEST_F(GpuTest, ExpertsMayBeGivenLessAndThatBackButNotKvsMemory) {
  auto engine = LoadSample("sample-moe", options_);
  ASSERT_NE(engine, nullptr);
  const GenerateRequest request = Greedy({5, 17, 300, 42}, 6);
  const std::vector<int32_t> tokens = TokensOf(*engine, request);
  const MemoryPlan before = engine->memory();
  const auto less = engine->SetExpertMemory(before.experts / 2);
  ASSERT_TRUE(less.ok()) << less.status();
  EXPECT_EQ(less->kv, before.kv);
  EXPECT_EQ(TokensOf(*engine, request), tokens);
  EXPECT_LE(engine->stats().experts.resident_bytes, before.experts / 2);
  EXPECT_TRUE(engine->SetExpertMemory(before.experts).ok());
  EXPECT_EQ(engine->SetExpertMemory(before.experts + before.slot).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(TokensOf(*engine, request), tokens);
}

TEST_F(GpuTest, SaysWhichSideHasTooLittle) {
  options_.device_memory_bytes = 6 * kMiB;
  absl::Status status = Engine::Load(kMoe, options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("the device_memory of 6.00 MiB"), std::string::npos) << status;
  options_.device_memory_bytes = uint64_t{1} << 50;
  status = Engine::Load(kMoe, options_).status();
  EXPECT_NE(status.message().find("are free"), std::string::npos) << status;
  options_.device_memory_bytes = 40 * kMiB;
  options_.memory_bytes = kMiB;
  status = Engine::Load(kMoe, options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("memory is 1.00 MiB"), std::string::npos) << status;
}
#endif

}  // namespace
}  // namespace hostler
