#include "engine/engine/model_needs.h"

#include <memory>

#include "gtest/gtest.h"

namespace hostler {
namespace {

const std::string kModels = HOSTLER_SOURCE_DIR "/models/";

TEST(PlanModelTest, DividesAsTheEngineThatServesDoes) {
  for (const char* name : {"sample-moe", "sample-dense"}) {
    for (const uint64_t mib : {64, 200, 1024}) {
      for (const Quantize quantize : {Quantize::kNone, Quantize::kQ8}) {
        EngineOptions options;
        options.memory_bytes = mib << 20;
        options.quantize = quantize;
        options.max_sequences = 8;
        options.step_tokens = 64;
        const auto planned = PlanModel(kModels + name, options);
        const auto engine = Engine::Load(kModels + name, options);
        ASSERT_EQ(planned.status(), engine.status()) << name << " in " << mib;
        if (!engine.ok()) continue;
        EXPECT_EQ(planned->memory.plan.ToString(), (*engine)->memory().ToString());
        EXPECT_EQ(planned->memory.max_context, (*engine)->max_context());
      }
    }
  }
}

TEST(PlanModelTest, CountsTheWorkOfARowByType) {
  EngineOptions options;
  options.memory_bytes = uint64_t{1} << 30;
  const auto count = [&](const PlannedModel& planned) {
    uint64_t macs = 0;
    for (const auto& [type, of_type] : planned.sketch.decoder.dense_macs) macs += of_type;
    for (const ExpertLayout& layer : planned.sketch.decoder.experts) {
      macs += 3 * layer.dim * layer.ffn * planned.sketch.info.experts_per_token;
    }
    return static_cast<double>(macs);
  };
  for (const char* name : {"sample-moe", "sample-dense"}) {
    const auto plain = PlanModel(kModels + name, options);
    ASSERT_TRUE(plain.ok()) << plain.status();
    // All but norms, which multiply as well.
    const auto active = static_cast<double>(plain->sketch.info.active_parameters);
    EXPECT_NEAR(count(*plain), active, 0.01 * active);
    options.quantize = Quantize::kQ8;
    const auto q8 = PlanModel(kModels + name, options);
    ASSERT_TRUE(q8.ok()) << q8.status();
    EXPECT_EQ(count(*q8), count(*plain));
    EXPECT_GT(q8->sketch.decoder.dense_macs.at(DType::kQ8_0), 0u);
    options.quantize = Quantize::kNone;
  }
}

TEST(PlanModelTest, SaysWhatALoadWouldSay) {
  EngineOptions options;
  options.memory_bytes = 1 << 20;
  EXPECT_EQ(PlanModel(kModels + "sample-moe", options).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(PlanModel(kModels + "nothing", options).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace hostler
