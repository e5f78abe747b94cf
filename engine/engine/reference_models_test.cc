// Every reference model of ../shared/golden, as it is there and as
// tests/fixtures/make_gguf.py writes it: logits, greedy tokens and chosen
// experts, alone and in a batch, with all experts in memory and with few.
#include <map>
#include <set>
#include <string>
#include <vector>

#include "cache/policy.h"
#include "cache/reader.h"
#include "engine/engine/engine.h"
#include "engine/engine/reference_models.h"
#include "engine/model/loader.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hostler {
namespace {

TEST_P(ReferenceModelTest, GivesTheLogits) {
  for (const bool few_experts : {false, true}) {
    auto engine = Load(few_experts);
    ASSERT_NE(engine, nullptr);
    ExpectGoldenLogits(*engine);
  }
}

TEST_P(ReferenceModelTest, ContinuesGreedily) {
  for (const bool few_experts : {false, true}) {
    auto engine = Load(few_experts);
    ASSERT_NE(engine, nullptr);
    ExpectGreedy(*engine, 1);
    ExpectGreedy(*engine, 4);
  }
}

// The experts of every row, by layer.
class Choices : public GateTrace {
 public:
  void Record(int layer, const ExpertSelection& selection) override {
    auto& rows = layers[layer];
    for (size_t r = 0; r + 1 < selection.offsets.size(); ++r) {
      rows.emplace_back(selection.experts.begin() + selection.offsets[r],
                        selection.experts.begin() + selection.offsets[r + 1]);
    }
  }
  std::map<int, std::vector<std::set<int>>> layers;
};

TEST_P(ReferenceModelTest, ChoosesTheExperts) {
  if (!golden_.contains("router") || golden_["router"]["long"].empty()) return;  // dense
  auto backend = NewCpuBackend(1);
  ASSERT_TRUE(backend.ok());
  auto loaded = LoadModel(GetParam().model.string(), {.precise = true}, *std::move(backend));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  Model& model = *loaded->model;
  auto reader = NewReader(loaded->weights->files(), ReaderOptionsFor(*model.experts()));
  ASSERT_TRUE(reader.ok());
  auto cache = ExpertCache::Create({.capacity_bytes = uint64_t{64} << 20}, model.experts(),
                                   *std::move(reader), NewLruPolicy());
  ASSERT_TRUE(cache.ok()) << cache.status();

  for (const char* name : {"short", "long"}) {
    const std::vector<int32_t> prompt = Prompt(name);
    const int rows = static_cast<int>(prompt.size());
    ASSERT_TRUE(model.AllocateWorkspace({rows, 1}).ok());
    KvLayout layout = model.kv_layout();
    layout.dtype = DType::kF32;
    const int blocks = (rows + layout.block_tokens - 1) / layout.block_tokens;
    auto kv = loaded->backend->Allocate(layout.block_bytes() * blocks);
    auto state = loaded->backend->Allocate(std::max<size_t>(model.state_bytes(), 1));
    std::vector<int32_t> table(blocks);
    StepBatch batch;
    batch.tokens = prompt;
    for (int i = 0; i < blocks; ++i) table[i] = i;
    for (int i = 0; i < rows; ++i) batch.positions.push_back(i);
    batch.sequences = {{.rows = rows, .prompt_tokens = rows, .blocks = table, .state = 0}};
    batch.logit_rows = {rows - 1};
    Choices choices;
    StepResult result;
    result.trace = &choices;
    model.Forward(batch,
                  {{layout, (*kv)->data()}, {(*state)->data(), model.state_bytes()}, cache->get()},
                  &result);

    // Layers of the file are the model's; ours count MoE layers.
    std::map<int, nlohmann::json> expected;
    for (const auto& [layer, value] : golden_["router"][name].items()) {
      expected[std::stoi(layer)] = value["ids"];
    }
    ASSERT_EQ(choices.layers.size(), expected.size());
    int index = 0;
    for (const auto& [layer, ids] : expected) {
      const auto& chosen = choices.layers[index++];
      ASSERT_EQ(chosen.size(), ids.size());
      for (size_t row = 0; row < chosen.size(); ++row) {
        EXPECT_EQ(chosen[row], ids[row].get<std::set<int>>()) << name << " " << layer << " " << row;
      }
    }
  }
}

class QuantisedGgufTest : public ::testing::TestWithParam<const char*> {
 protected:
  static std::vector<float> Logits(const std::string& name, bool precise) {
    EngineOptions options;
    options.precise = precise;
    options.threads = 2;
    options.memory_bytes = uint64_t{256} << 20;
    auto engine = Engine::Load(GgufFile(name).string(), options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    if (!engine.ok()) return {};
    std::vector<int32_t> prompt;
    for (int i = 0; i < 60; ++i) prompt.push_back(37 * i % 320);
    const auto logits = (*engine)->Logits(prompt);
    EXPECT_TRUE(logits.ok()) << logits.status();
    return logits.ok() ? *logits : std::vector<float>();
  }
};

TEST_P(QuantisedGgufTest, GivesTheLogitsOfTheValuesItStandsFor) {
  const std::string name = std::string(GetParam()) + ".q8_0";
  if (!fs::exists(GgufFile(name))) GTEST_SKIP() << "needs " << GgufFile(name);
  const double tolerance = name.starts_with("qwen3_next") ? 2e-3 : 2e-4;
  for (bool precise : {true, false}) {
    const std::vector<float> quantised = Logits(name, precise);
    const std::vector<float> plain = Logits(name + ".plain", precise);
    ASSERT_FALSE(quantised.empty());
    ASSERT_EQ(quantised.size(), plain.size());
    double worst = 0, squares = 0, error_squares = 0;
    for (size_t i = 0; i < plain.size(); ++i) {
      const double error = double(quantised[i]) - plain[i];
      worst = std::max(worst, std::fabs(error));
      squares += double(plain[i]) * plain[i];
      error_squares += error * error;
    }
    if (precise) EXPECT_LE(worst, tolerance);
    // Inputs are 16-bit integers then, keys and values f16: about as if the
    // activations were f16.
    EXPECT_LE(std::sqrt(error_squares / squares), 2e-3);
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, QuantisedGgufTest,
                         ::testing::Values("deepseek_v2_lite", "gpt_oss", "phi3", "qwen3_next"),
                         [](const auto& info) { return std::string(info.param); });

INSTANTIATE_TEST_SUITE_P(Golden, ReferenceModelTest, ::testing::ValuesIn(ReferenceModels()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace hostler
