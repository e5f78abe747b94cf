// What steps on the CUDA backend ask of the device, and that graphs change no bit. On the
// emulation, which counts.
#include <utility>
#include <vector>

#include "engine/compute/cuda/cuda_backend.h"
#include "engine/compute/cuda/emulation/emulation.h"
#include "engine/engine/reference_models.h"
#include "engine/engine/test_engine.h"

namespace hostler {
namespace {

using cuda_emulation::Counts;
using cuda_emulation::CountsSoFar;

class CudaStepTest : public ReferenceModelTest {
 protected:
  void SetUp() override {
    ReferenceModelTest::SetUp();
    cuda_emulation::GuardDeviceMemory(true);
  }
  void TearDown() override {
    for (const std::string& race : cuda_emulation::TakeRaces()) ADD_FAILURE() << race;
  }

  std::unique_ptr<Engine> LoadWithGraphs(bool graphs, uint64_t kv_bytes = 0) {
    EngineOptions options;
    options.precise = true;
    options.memory_bytes = uint64_t{256} << 20;
    options.max_context = kContext;
    options.kv_memory_bytes = kv_bytes;
    options.new_backend = [graphs] { return NewCudaBackend(0, {.graphs = graphs}); };
    auto engine = Engine::Load(GetParam().model.string(), options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }

  // Of every token: itself, then the bits of what the most likely ones had.
  using Answer = std::vector<std::pair<int32_t, std::vector<float>>>;
  static Answer Collect(GenerateStream& stream) {
    Answer answer;
    while (const auto event = stream.Pop()) {
      answer.push_back({event->token_ids[0], {}});
      for (const PositionLogprobs& position : event->logprobs) {
        for (const TokenLogprob& top : position.top) answer.back().second.push_back(top.logprob);
      }
    }
    EXPECT_TRUE(stream.status().ok()) << stream.status();
    return answer;
  }

  static constexpr int kContext = 128;
};

TEST_P(CudaStepTest, ASteadyStepAllocatesNothingAndWaitsForGatesOnly) {
  auto engine = LoadWithGraphs(true);
  ASSERT_NE(engine, nullptr);
  const auto ask = [&] { Collect(**engine->Submit(hostler::Greedy(Prompt("short"), 20))); };
  for (int i = 0; i < 3; ++i) ask();
  const Counts before = CountsSoFar();
  const EngineStats stats_before = engine->stats();
  ask();
  const Counts after = CountsSoFar();
  const EngineStats stats = engine->stats();
  const uint64_t steps = stats.steps - stats_before.steps;
  const uint64_t layers = engine->model().moe_layers;
  ASSERT_GE(steps, 20u);
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_EQ(after.waits - before.waits, steps * (layers + 1));
  // A batch, what is looked up, what is read; each layer's experts and their weights, and
  // what it chose.
  EXPECT_LE(after.copies - before.copies, steps * (3 + 3 * layers));
  EXPECT_EQ(stats.graphs.failed, 0u);
  if (layers == 0) {
    EXPECT_EQ(after.graph_launches - before.graph_launches, steps);
    EXPECT_EQ(after.launches, before.launches);
  }
}

// Sequences of several lengths come and go, some of them preempted.
TEST_P(CudaStepTest, GraphsChangeNoBit) {
  constexpr int kSequences = 6;
  std::vector<Answer> answers[2];
  for (const bool graphs : {false, true}) {
    const auto any = LoadWithGraphs(graphs);
    ASSERT_NE(any, nullptr);
    // Room for little more than one of the longest.
    const uint64_t token = any->model().kv_values_per_token * sizeof(float);
    const auto engine = LoadWithGraphs(graphs, kContext * 9 / 8 * token);
    ASSERT_NE(engine, nullptr);
    for (int round = 0; round < 2; ++round) {
      std::vector<std::shared_ptr<GenerateStream>> streams;
      for (int i = 0; i < kSequences; ++i) {
        std::vector<int32_t> prompt = Prompt("short");
        prompt.push_back(i + 1);
        GenerateRequest request = hostler::Greedy(prompt, 12 * (i + 1));
        request.logprobs = 20;
        streams.push_back(*engine->Submit(request));
      }
      for (const auto& stream : streams) answers[graphs].push_back(Collect(*stream));
    }
    EXPECT_GT(engine->stats().preemptions, 0u);
    EXPECT_EQ(engine->stats().graphs.replayed > 0, graphs);
    EXPECT_EQ(engine->stats().graphs.failed, 0u);
  }
  EXPECT_EQ(answers[0], answers[1]);
}

// The device finds the strongest logits; whole rows come where logprobs are asked for.
TEST_P(CudaStepTest, TokensAreThoseThatWholeRowsGive) {
  const auto engine = LoadWithGraphs(true);
  ASSERT_NE(engine, nullptr);
  std::vector<GenerateRequest> requests;
  for (const double temperature : {0.0, 0.7, 1.5}) {
    for (const int top_k : {0, 1, 5, 40}) {
      GenerateRequest request = hostler::Greedy(Prompt("short"), 12);
      request.sampling.temperature = temperature;
      request.sampling.top_k = top_k;
      request.sampling.top_p = 0.95;
      request.sampling.seed = 7;
      request.stop_token_ids = {1, 2, 3, 4, 5};
      request.min_tokens = top_k / 4;
      requests.push_back(request);
    }
  }
  std::vector<std::vector<int32_t>> tokens[2];
  uint64_t copied[2];
  // Once more than needed: the first brings experts in.
  for (const bool whole : {true, false, true}) {
    tokens[whole].clear();
    const uint64_t before = CountsSoFar().copied_bytes;
    std::vector<std::shared_ptr<GenerateStream>> streams;
    for (GenerateRequest request : requests) {
      if (whole) request.logprobs = 0;
      streams.push_back(*engine->Submit(request));
    }
    for (const auto& stream : streams) {
      tokens[whole].emplace_back();
      for (const auto& [token, logprobs] : Collect(*stream)) tokens[whole].back().push_back(token);
    }
    copied[whole] = CountsSoFar().copied_bytes - before;
  }
  EXPECT_EQ(tokens[0], tokens[1]);
  EXPECT_LT(copied[0], copied[1]);
}

std::vector<ReferenceModel> Some() {
  std::vector<ReferenceModel> models = ReferenceModels();
  std::erase_if(models, [](const ReferenceModel& m) {
    return m.name != "llama" && m.name != "gemma2" && m.name != "qwen3_moe" &&
           m.name != "deepseek_v3" && m.name != "qwen3_next" && m.name != "llama4_text" &&
           m.name != "missing";
  });
  return models;
}

INSTANTIATE_TEST_SUITE_P(Golden, CudaStepTest, ::testing::ValuesIn(Some()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace hostler
