// Every reference model through the CUDA backend: logits within the tolerance and the
// greedy tokens, with few experts in memory.
#include "engine/compute/cuda/cuda_backend.h"
#include "engine/engine/faulty_disk.h"
#include "engine/engine/reference_models.h"
#include "engine/engine/test_engine.h"
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

  // Whether the short prompt's request succeeds, with the right tokens; of one that fails
  // those that came are right.
  bool RightOrFailed(Engine& engine) {
    const std::vector<int32_t> right = Greedy("short");
    auto stream = engine.Submit(hostler::Greedy(Prompt("short"), static_cast<int>(right.size())));
    if (!stream.ok()) return false;
    std::vector<int32_t> tokens;
    while (auto event = (*stream)->Pop()) {
      tokens.insert(tokens.end(), event->token_ids.begin(), event->token_ids.end());
    }
    const bool succeeded = (*stream)->status().ok();
    EXPECT_LE(tokens.size(), right.size());
    if (succeeded) {
      EXPECT_EQ(tokens.size(), right.size());
    }
    tokens.resize(std::min(tokens.size(), right.size()));
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), right.begin()));
    return succeeded;
  }
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

TEST_P(CudaBudgetTest, AFailedCopyEndsARequestAndNeverChangesItsTokens) {
  auto engine = Load(/*few_experts=*/true);
  ASSERT_NE(engine, nullptr);
  int failed = 0;
  for (const int nth : {1, 4, 60, 201, 502, 803}) {
    SCOPED_TRACE(nth);
    cuda_emulation::SetFaults({.copy = nth});
    failed += !RightOrFailed(*engine);
    cuda_emulation::SetFaults({});
  }
  // Which copy is the n-th depends on threads, and one that only a guess wanted fails nobody.
  EXPECT_GE(failed, 1);
  ExpectGreedy(*engine, 1);
}

// Three tiers, and experts that the host computes: of all of it the tokens show nothing.
class CudaTiersTest : public CudaBudgetTest {
 protected:
  // An engine with so many percent of the experts in HBM and in DRAM; 0: the least, none.
  std::unique_ptr<Engine> Open(int hbm, int dram, Hybrid hybrid) {
    if (all_ == 0) all_ = LoadWith(0)->memory().all_experts;
    adjust_ = [=, this](EngineOptions* options) {
      options->host_expert_memory_bytes =
          dram == 0 ? 0 : std::max<uint64_t>(all_ * dram / 100, 40 << 10);
      options->hybrid = hybrid;
      options->new_backend = [] { return NewCudaBackend(0, {.host_threads = 2}); };
      if (faults_ != nullptr) {
        options->wrap_reader = [this](std::unique_ptr<Reader> reader) {
          return faults_->Wrap(std::move(reader), ReaderOptions::Method::kAuto);
        };
      }
    };
    return hbm == 0 ? Load(/*few_experts=*/true) : LoadWith(all_ * hbm / 100);
  }

  uint64_t all_ = 0;
  std::unique_ptr<ReadFaults> faults_;
};

TEST_P(CudaTiersTest, GivesTheSameTokensWhateverIsWhereAndWhoeverComputes) {
  const bool every = GetParam().name == "qwen3_moe";
  ExpertCacheStats sum;
  for (const int hbm : {100, 25, 0}) {
    for (const int dram : {100, 40, 0}) {
      for (const Hybrid hybrid : {Hybrid::kAuto, Hybrid::kOff, Hybrid::kAlways}) {
        // Of no consequence then; and of other models only some.
        if ((dram == 0 || hbm == 100) && hybrid != Hybrid::kAuto) continue;
        if (!every && (hbm != 0 || dram != 40)) continue;
        SCOPED_TRACE(::testing::Message() << hbm << "% " << dram << "% " << int(hybrid));
        auto engine = Open(hbm, dram, hybrid);
        ASSERT_NE(engine, nullptr);
        cuda_emulation::SetFaults({.copy_delay_ms = dram == 40 && hbm == 25 ? 1 : 0});
        EXPECT_TRUE(RightOrFailed(*engine));
        cuda_emulation::SetFaults({});
        const ExpertCacheStats stats = engine->stats().experts;
        EXPECT_EQ(stats.host.capacity_bytes > 0, dram > 0);
        EXPECT_EQ(stats.read_errors, 0u);
        EXPECT_EQ(stats.pinned_slots, 0);
        // Nothing leaves DRAM then.
        EXPECT_TRUE(dram < 100 || stats.host.evictions == 0);
        EXPECT_TRUE(hybrid != Hybrid::kOff || stats.host_experts == 0);
        EXPECT_TRUE(hybrid != Hybrid::kAlways || stats.host_experts > 0);
        sum.copies += stats.copies;
        sum.host.hits += stats.host.hits;
        sum.host_experts += stats.host_experts;
        sum.promotions += stats.promotions;
      }
    }
  }
  EXPECT_GT(sum.copies, 0u);
  EXPECT_GT(sum.host.hits, 0u);
  EXPECT_GT(sum.host_experts, 0u);
  EXPECT_GT(sum.promotions, 0u);
}

// Parameters' segments are taken as they come into use, during the first requests.
TEST_P(CudaTiersTest, StepsComeToTakeNoMemory) {
  for (const Hybrid hybrid : {Hybrid::kOff, Hybrid::kAlways}) {
    auto engine = Open(0, 40, hybrid);
    ASSERT_NE(engine, nullptr);
    uint64_t taken = 1;
    for (int i = 0; i < 8 && taken > 0; ++i) {
      const auto before = cuda_emulation::CountsSoFar();
      EXPECT_TRUE(RightOrFailed(*engine));
      EXPECT_GT(cuda_emulation::CountsSoFar().copies, before.copies);
      taken = cuda_emulation::CountsSoFar().allocations - before.allocations;
    }
    EXPECT_EQ(taken, 0u) << int(hybrid);
  }
}

TEST_P(CudaTiersTest, FailedCopiesAndReadsNeverChangeTokens) {
  faults_ = std::make_unique<ReadFaults>(GetParam().model.string());
  for (const Hybrid hybrid : {Hybrid::kOff, Hybrid::kAlways}) {
    auto engine = Open(0, 40, hybrid);
    ASSERT_NE(engine, nullptr);
    int failed = 0;
    for (const int nth : {1, 30, 61, 152, 303}) {
      cuda_emulation::SetFaults({.copy = nth});
      failed += !RightOrFailed(*engine);
      cuda_emulation::SetFaults({});
    }
    EXPECT_GE(failed, 2);
    faults_->FailOfThree(2);  // each is begun again
    EXPECT_TRUE(RightOrFailed(*engine));
    faults_->FailOfThree(3);
    RightOrFailed(*engine);  // what is needed may be in DRAM
    faults_->FailOfThree(0);
    EXPECT_TRUE(RightOrFailed(*engine));
  }
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
INSTANTIATE_TEST_SUITE_P(Golden, CudaTiersTest, ::testing::ValuesIn(Some()),
                         [](const auto& info) { return info.param.name; });
#endif

}  // namespace
}  // namespace hostler
