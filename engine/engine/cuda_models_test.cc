// Every reference model through the CUDA backend: logits within the tolerance and the
// greedy tokens, with few experts in memory.
#include "engine/compute/cuda/cuda_backend.h"
#include "engine/engine/reference_models.h"
#if defined(HOSTLER_CUDA_EMULATED)
#include "engine/compute/cuda/emulation/emulation.h"
#endif

namespace hostler {
namespace {

class CudaModelTest : public ReferenceModelTest {
 protected:
  void SetUp() override {
    if (!NewCudaBackend().ok()) GTEST_SKIP() << "no GPU";
    ReferenceModelTest::SetUp();
    new_backend_ = [] { return NewCudaBackend(); };
    f32_backend_ = [] { return NewCudaBackend(0, {.kernels = "f32"}); };
#if defined(HOSTLER_CUDA_EMULATED)
    // Nothing of the engine may touch the device's memory.
    cuda_emulation::GuardDeviceMemory(true);
#endif
  }
  decltype(new_backend_) f32_backend_;
#if defined(HOSTLER_CUDA_EMULATED)
  void TearDown() override {
    for (const std::string& race : cuda_emulation::TakeRaces()) ADD_FAILURE() << race;
  }
#endif
};

TEST_P(CudaModelTest, GivesTheLogitsAndTheTokens) {
  new_backend_ = f32_backend_;
  auto engine = Load(/*few_experts=*/true);
  ASSERT_NE(engine, nullptr);
  ExpectGoldenLogits(*engine);
  ExpectGreedy(*engine, 1);
}

// Of weights whose products are in integers: inputs of 16 bits. The tokens are the same.
using CudaIntegerModelTest = CudaModelTest;

TEST_P(CudaIntegerModelTest, IsAsGoodAsInputsOf16Bits) {
  auto engine = Load(/*few_experts=*/true);
  ASSERT_NE(engine, nullptr);
  for (const char* name : {"short", "long"}) {
    const auto logits = engine->Logits(Prompt(name));
    ASSERT_TRUE(logits.ok()) << logits.status();
    const std::vector<float> expected =
        ReadNpy(GetParam().golden /
                (name == std::string("short") ? "logits_short.npy" : "logits_long_last.npy"));
    const float* got = logits->data() + logits->size() - expected.size();
    double squares = 0, error_squares = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double error = double(got[i]) - expected[i];
      squares += double(expected[i]) * expected[i];
      error_squares += error * error;
    }
    EXPECT_LE(std::sqrt(error_squares / squares), 3e-4) << name;
    EXPECT_GT(error_squares, 0) << name;
  }
  ExpectGreedy(*engine, 1);
}

#if defined(HOSTLER_CUDA_EMULATED)
// Some of them with more or less of their experts in HBM, copies that take their time,
// and copies that fail.
class CudaBudgetTest : public CudaModelTest {
 protected:
  ~CudaBudgetTest() override { cuda_emulation::Reset(); }
};

TEST_P(CudaBudgetTest, GivesTheSameTokensWhateverIsInHbm) {
  uint64_t all = 0;
  for (const int percent : {100, 25, 0}) {
    auto engine = percent == 0 ? Load(/*few_experts=*/true) : LoadWith(all * percent / 100);
    ASSERT_NE(engine, nullptr);
    all = engine->memory().all_experts;
    cuda_emulation::SetFaults({.copy_delay_ms = percent == 25 ? 1 : 0});
    ExpectGreedy(*engine, 1);
    cuda_emulation::SetFaults({});
    const auto stats = engine->stats().experts;
    EXPECT_EQ(stats.evictions > 0, percent < 100) << percent;
  }
}

// Three tiers, and experts that the host computes: of all of it the tokens show nothing.
TEST_P(CudaBudgetTest, GivesTheSameTokensWhateverIsInDramAndWhoeverComputes) {
  const uint64_t all = LoadWith(0)->memory().all_experts;
  uint64_t copies = 0, read_again = 0, from_dram = 0, on_host = 0, promotions = 0;
  for (const int hbm : {100, 25, 0}) {
    for (const int dram : {100, 40, 0}) {
      for (const Hybrid hybrid : {Hybrid::kAuto, Hybrid::kOff, Hybrid::kAlways}) {
        if ((dram == 0 || hbm == 100) && hybrid != Hybrid::kAuto) continue;
        adjust_ = [&](EngineOptions* options) {
          options->host_expert_memory_bytes =
              dram == 0 ? 0 : std::max<uint64_t>(all * dram / 100, 40 << 10);
          options->hybrid = hybrid;
          options->new_backend = [] { return NewCudaBackend(0, {.host_threads = 2}); };
        };
        auto engine = hbm == 0 ? Load(/*few_experts=*/true) : LoadWith(all * hbm / 100);
        ASSERT_NE(engine, nullptr);
        cuda_emulation::SetFaults({.copy_delay_ms = dram == 40 && hbm == 25 ? 1 : 0});
        SCOPED_TRACE(::testing::Message() << hbm << "% " << dram << "% " << int(hybrid));
        ExpectGreedy(*engine, 1);
        cuda_emulation::SetFaults({});
        const ExpertCacheStats stats = engine->stats().experts;
        EXPECT_EQ(stats.host.capacity_bytes > 0, dram > 0);
        EXPECT_EQ(stats.read_errors, 0u);
        if (dram == 100) {
          EXPECT_LE(stats.read_bytes, stats.model_bytes) << "nothing is read twice";
        }
        if (hybrid == Hybrid::kOff) {
          EXPECT_EQ(stats.host_experts, 0u);
        }
        if (hybrid == Hybrid::kAlways) {
          EXPECT_GT(stats.host_experts, 0u);
        }
        copies += stats.copies;
        from_dram += stats.host.hits;
        read_again += dram == 0 && hbm < 100 ? stats.reads : 0;
        on_host += stats.host_experts;
        promotions += stats.promotions;
      }
    }
  }
  EXPECT_GT(copies, 0u);
  EXPECT_GT(from_dram, 0u);
  EXPECT_GT(read_again, 0u);
  EXPECT_GT(on_host, 0u);
  EXPECT_GT(promotions, 0u);
}

TEST_P(CudaBudgetTest, AFailedCopyEndsARequestAndNeverChangesItsTokens) {
  auto engine = Load(/*few_experts=*/true);
  ASSERT_NE(engine, nullptr);
  const std::vector<int32_t> right = Greedy("short");
  int failed = 0;
  for (const int nth : {1, 4, 60, 201, 502, 803}) {
    cuda_emulation::SetFaults({.copy = nth});
    GenerateRequest request;
    request.prompt = Prompt("short");
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    request.max_tokens = static_cast<int>(right.size());
    auto stream = engine->Submit(request);
    ASSERT_TRUE(stream.ok()) << stream.status();
    std::vector<int32_t> tokens;
    while (auto event = (*stream)->Pop()) {
      tokens.insert(tokens.end(), event->token_ids.begin(), event->token_ids.end());
    }
    cuda_emulation::SetFaults({});
    if ((*stream)->status().ok()) {
      EXPECT_EQ(tokens, right) << nth;
    } else {
      ++failed;
      ASSERT_LE(tokens.size(), right.size());
      EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), right.begin())) << nth;
    }
  }
  EXPECT_GE(failed, 3);
  ExpectGreedy(*engine, 1);
}
#endif

// As they are stored: their GGUF forms hold the same values.
std::vector<ReferenceModel> Stored() {
  std::vector<ReferenceModel> models = ReferenceModels();
  std::erase_if(models, [](const ReferenceModel& m) { return m.name.ends_with("_as_gguf"); });
  return models;
}

INSTANTIATE_TEST_SUITE_P(Golden, CudaModelTest, ::testing::ValuesIn(Stored()),
                         [](const auto& info) { return info.param.name; });

std::vector<ReferenceModel> Quantised() {
  std::vector<ReferenceModel> models = Stored();
  std::erase_if(models, [](const ReferenceModel& m) {
    return m.name != "gpt_oss_mxfp4" && m.name != "mixtral_Q8_0_gguf" &&
           m.name != "qwen3_moe_Q8_0_gguf" && m.name != "missing";
  });
  return models;
}

INSTANTIATE_TEST_SUITE_P(Golden, CudaIntegerModelTest, ::testing::ValuesIn(Quantised()),
                         [](const auto& info) { return info.param.name; });

#if defined(HOSTLER_CUDA_EMULATED)
std::vector<ReferenceModel> Some() {
  std::vector<ReferenceModel> models = Stored();
  std::erase_if(models, [](const ReferenceModel& m) {
    return m.name != "qwen3_moe" && m.name != "deepseek_v3" && m.name != "gpt_oss_mxfp4" &&
           m.name != "missing";
  });
  return models;
}

INSTANTIATE_TEST_SUITE_P(Golden, CudaBudgetTest, ::testing::ValuesIn(Some()),
                         [](const auto& info) { return info.param.name; });
#endif

}  // namespace
}  // namespace hostler
