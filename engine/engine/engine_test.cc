// The whole engine over the sample models: against reference outputs, and the
// same tokens whatever the speed settings.
#include "engine/engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine/test_engine.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hostler {
namespace {

const std::string kModels = HOSTLER_SOURCE_DIR "/models/";

EngineOptions Precise() {
  EngineOptions options;
  options.precise = true;
  options.memory_bytes = uint64_t{1} << 30;
  return options;
}

struct Answer {
  std::vector<std::vector<int32_t>> tokens;  // of each sequence
  std::vector<std::string> text;
  std::vector<FinishReason> finish;
  std::vector<PositionLogprobs> logprobs;  // of sequence 0
  absl::Status status;
};

Answer Collect(GenerateStream& stream, int n) {
  Answer answer;
  answer.tokens.resize(n);
  answer.text.resize(n);
  answer.finish.resize(n, FinishReason::kError);
  while (std::optional<GenerateEvent> event = stream.Pop()) {
    auto& tokens = answer.tokens[event->index];
    tokens.insert(tokens.end(), event->token_ids.begin(), event->token_ids.end());
    answer.text[event->index] += event->text;
    if (event->index == 0) {
      answer.logprobs.insert(answer.logprobs.end(), event->logprobs.begin(), event->logprobs.end());
    }
    if (event->finish_reason.has_value()) answer.finish[event->index] = *event->finish_reason;
  }
  answer.status = stream.status();
  return answer;
}

Answer Ask(Engine& engine, const GenerateRequest& request) {
  auto stream = engine.Submit(request);
  EXPECT_TRUE(stream.ok()) << stream.status();
  if (!stream.ok()) return {{}, {}, {}, {}, stream.status()};
  return Collect(**stream, request.n);
}

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    std::ifstream file(HOSTLER_SOURCE_DIR "/../shared/models/golden/" + GetParam() + ".json");
    if (!file) GTEST_SKIP() << "needs ../shared/models/golden/" << GetParam() << ".json";
    golden_ = nlohmann::json::parse(file);
  }
  nlohmann::json golden_;
};

TEST_P(GoldenTest, LogitsAreTheReferences) {
  auto engine = LoadSample(GetParam(), Precise());
  ASSERT_NE(engine, nullptr);
  const int vocab = engine->model().vocab;
  double worst = 0;
  for (const nlohmann::json& prompt : golden_["prompts"]) {
    auto tokens = prompt["prompt_ids"].get<std::vector<int32_t>>();
    const size_t last = tokens.size() - 1;
    const auto greedy = prompt["greedy_ids"].get<std::vector<int32_t>>();
    tokens.insert(tokens.end(), greedy.begin(), greedy.begin() + 8);
    const auto logits = engine->Logits(tokens);
    ASSERT_TRUE(logits.ok()) << logits.status();
    ASSERT_EQ(logits->size(), tokens.size() * vocab);
    for (size_t step = 0; step < prompt["logits"].size(); ++step) {
      const nlohmann::json& entry = prompt["logits"][step];
      const auto ids = entry["ids"].get<std::vector<int32_t>>();
      const auto values = entry["values"].get<std::vector<float>>();
      for (size_t i = 0; i < ids.size(); ++i) {
        const float got = (*logits)[(last + step) * vocab + ids[i]];
        worst = std::max(worst, std::fabs(double(got) - values[i]));
      }
    }
  }
  EXPECT_LE(worst, 2e-3);
  RecordProperty("worst_logit_difference", std::to_string(worst));
}

TEST_P(GoldenTest, GreedyTokensAreTheReferences) {
  auto engine = LoadSample(GetParam(), Precise());
  ASSERT_NE(engine, nullptr);
  for (const nlohmann::json& prompt : golden_["prompts"]) {
    const auto expected = prompt["greedy_ids"].get<std::vector<int32_t>>();
    const Answer answer = Ask(*engine, Greedy(prompt["prompt_ids"], int(expected.size())));
    EXPECT_EQ(answer.tokens[0], expected) << prompt["name"];
  }
}

INSTANTIATE_TEST_SUITE_P(SampleModels, GoldenTest, ::testing::Values("sample-moe", "sample-dense"),
                         [](const auto& info) {
                           return info.param == "sample-moe" ? "Moe" : "Dense";
                         });

TEST(DecodeWidthTest, TurnsChangeNoToken) {
  EngineOptions options;
  options.memory_bytes = uint64_t{1} << 30;
  options.threads = 1;
  std::vector<std::vector<int32_t>> all;
  for (const int width : {0, 1, 3}) {
    SCOPED_TRACE(width);
    options.decode_width = width;
    options.max_decode_wait_ms = width == 1 ? 1 : 50;
    if (width > 0) options.expert_memory_bytes = 2 << 20;
    auto engine = LoadSample("sample-moe", options);
    ASSERT_NE(engine, nullptr);
    const auto tokens = AskAllAtOnce(*engine, 24);
    if (width == 0) all = tokens;
    EXPECT_EQ(tokens, all);
    const ScheduleStats stats = engine->stats().schedule;
    EXPECT_EQ(stats.probes, 0u);  // all of them resident, or told what to do
    if (width == 0) {
      EXPECT_EQ(stats.slices, 0u);
    } else {
      EXPECT_LE(stats.width, width);
      EXPECT_GT(stats.slices, 0u);
      EXPECT_GT(stats.longest_wait_seconds, 0);
    }
  }
}

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    EngineOptions options;
    options.memory_bytes = uint64_t{1} << 30;
    engine_ = LoadSample("sample-moe", options);
    ASSERT_NE(engine_, nullptr);
  }

  GenerateRequest Text(const std::string& prompt, int tokens) {
    GenerateRequest request = Greedy({}, tokens);
    request.prompt = prompt;
    return request;
  }

  void ExpectAtRest() {
    for (int i = 0; i < 500 && engine_->stats().running + engine_->stats().waiting > 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    const EngineStats stats = engine_->stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.kv_blocks_used, 0);
    EXPECT_EQ(stats.experts.pinned_slots, 0);
  }

  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, SequencesOfOneRequestDrawTheirOwnTokens) {
  GenerateRequest request = Text("Once upon a time there was", 12);
  request.n = 3;
  request.sampling.temperature = 1;
  request.sampling.seed = 5;
  const Answer answer = Ask(*engine_, request);
  EXPECT_NE(answer.tokens[0], answer.tokens[1]);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(answer.tokens[i].size(), 12u);
  request.n = 1;
  EXPECT_EQ(Ask(*engine_, request).tokens[0], answer.tokens[0]);
  ExpectAtRest();
}

TEST_F(EngineTest, GreedySequencesOfOneRequestAreEqual) {
  GenerateRequest request = Text("Once upon a time there was a little girl who lived", 10);
  request.n = 4;
  const Answer answer = Ask(*engine_, request);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(answer.tokens[i], answer.tokens[0]);
}

TEST_F(EngineTest, StopsAtAStopString) {
  const Answer whole = Ask(*engine_, Text("Once upon a time", 40));
  const std::string stop = whole.text[0].substr(20, 5);
  GenerateRequest request = Text("Once upon a time", 40);
  request.stop = {stop};
  const Answer answer = Ask(*engine_, request);
  EXPECT_EQ(answer.text[0], whole.text[0].substr(0, whole.text[0].find(stop)));
  EXPECT_EQ(answer.finish[0], FinishReason::kStop);
  request.include_stop_str = true;
  EXPECT_EQ(Ask(*engine_, request).text[0],
            whole.text[0].substr(0, whole.text[0].find(stop) + stop.size()));
}

TEST_F(EngineTest, StopsAtAStopTokenButNotTooEarly) {
  const Answer whole = Ask(*engine_, Text("Once upon a time", 20));
  GenerateRequest request = Text("Once upon a time", 20);
  request.stop_token_ids = {whole.tokens[0][5]};
  const Answer answer = Ask(*engine_, request);
  EXPECT_EQ(answer.finish[0], FinishReason::kStop);
  EXPECT_LE(answer.tokens[0].size(), 6u);
  request.min_tokens = 15;
  EXPECT_GE(Ask(*engine_, request).tokens[0].size(), 15u);
}

TEST_F(EngineTest, LogprobsAreThoseOfTheLogits) {
  GenerateRequest request = Text("The old king", 5);
  request.logprobs = 3;
  const Answer answer = Ask(*engine_, request);
  ASSERT_EQ(answer.logprobs.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(answer.logprobs[i].chosen.id, answer.tokens[0][i]);
    ASSERT_EQ(answer.logprobs[i].top.size(), 3u);
    EXPECT_EQ(answer.logprobs[i].top[0].id, answer.tokens[0][i]);  // greedy
    EXPECT_LT(answer.logprobs[i].chosen.logprob, 0);
  }
}

TEST_F(EngineTest, ScoresThePrompt) {
  GenerateRequest request = Text("The old king sat by the fire and", 1);
  request.prompt_logprobs = 0;
  auto stream = engine_->Submit(request);
  ASSERT_TRUE(stream.ok());
  Collect(**stream, 1);
  const PromptInfo& prompt = (*stream)->prompt();
  ASSERT_EQ(prompt.logprobs.size() + 1, prompt.token_ids.size());
  const auto logits = engine_->Logits(prompt.token_ids);
  ASSERT_TRUE(logits.ok());
  const int vocab = engine_->model().vocab;
  for (size_t i = 0; i + 1 < prompt.token_ids.size(); ++i) {
    const float* row = logits->data() + i * vocab;
    double sum = 0;
    for (int t = 0; t < vocab; ++t) sum += std::exp(double(row[t]));
    EXPECT_NEAR(prompt.logprobs[i].chosen.logprob, row[prompt.token_ids[i + 1]] - std::log(sum),
                1e-4);
  }
}

TEST_F(EngineTest, RefusesWhatTheModelCannotDo) {
  const auto status = [&](const GenerateRequest& request) {
    return std::string(engine_->Submit(request).status().message());
  };
  EXPECT_EQ(status(Greedy({}, 4)).rfind("prompt:", 0), 0u);
  EXPECT_EQ(status(Greedy({1, 4096}, 4)).rfind("prompt:", 0), 0u);
  EXPECT_EQ(status(Greedy({-1}, 4)).rfind("prompt:", 0), 0u);
  EXPECT_EQ(status(Greedy(std::vector<int32_t>(3000, 5), 4)).rfind("prompt:", 0), 0u);
  EXPECT_EQ(status(Greedy({5}, -4)).rfind("max_tokens:", 0), 0u);
  GenerateRequest request = Greedy({5}, 4);
  request.n = 0;
  EXPECT_EQ(status(request).rfind("n:", 0), 0u);
  request = Greedy({5}, 4);
  request.sampling.top_p = std::nan("");
  EXPECT_EQ(status(request).rfind("top_p:", 0), 0u);
}

TEST(EngineTemplateTest, AFilesTemplateStandsInForTheModelsOwn) {
  const std::string file = ::testing::TempDir() + "hostler_template_" + std::to_string(::getpid());
  std::ofstream(file) << "<{{ messages[0].content }}>";
  EngineOptions options = Precise();
  options.chat_template = file;
  const auto engine = LoadSample("sample-dense", options);
  ASSERT_NE(engine, nullptr);
  GenerateRequest request;
  ChatPrompt chat;
  chat.messages = {{{"role", "user"}, {"content", "hello"}}};
  request.prompt = chat;
  const auto ids = engine->TokenizePrompt(request);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(engine->tokenizer()->Decode(*ids, /*skip_special=*/false), "<hello>");

  std::ofstream(file) << "{% if %}";
  const auto bad = Engine::Load(kModels + "sample-dense", options);
  EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(bad.status().message()).rfind(file, 0), 0u) << bad.status();
  std::filesystem::remove(file);
  EXPECT_EQ(Engine::Load(kModels + "sample-dense", options).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(EngineTest, CancelledRequestsLeaveNothingBehind) {
  std::vector<std::shared_ptr<GenerateStream>> streams;
  for (int i = 0; i < 20; ++i) {
    GenerateRequest request = Greedy(MixedPrompts()[i % 16], 1000);
    request.n = 1 + i % 3;
    streams.push_back(*engine_->Submit(request));
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    if (i % 2 == 0) streams[i]->Pop();
    streams[i]->Cancel();
  }
  for (auto& stream : streams) {
    while (stream->Pop()) {
    }
    EXPECT_EQ(stream->status().code(), absl::StatusCode::kCancelled);
  }
  ExpectAtRest();
}

TEST_F(EngineTest, AReaderThatStopsReadingHoldsUpOnlyItself) {
  auto slow = *engine_->Submit(Greedy({5, 6, 7}, 1500));
  const Answer quick = Ask(*engine_, Greedy({8, 9}, 400));
  EXPECT_EQ(quick.tokens[0].size(), 400u);
  const Answer rest = Collect(*slow, 1);
  EXPECT_EQ(rest.tokens[0].size(), 1500u);
  ExpectAtRest();
}

TEST_F(EngineTest, DrainEndsWhatRunsTooLong) {
  auto stream = *engine_->Submit(Greedy({5, 6, 7}, 2000));
  engine_->Drain(/*deadline_ms=*/1);
  while (stream->Pop()) {
  }
  EXPECT_FALSE(engine_->Submit(Greedy({5}, 4)).ok());
}

TEST(EngineMemoryTest, PreemptionChangesNoToken) {
  EngineOptions options;
  options.memory_bytes = uint64_t{1} << 30;
  auto roomy = LoadSample("sample-moe", options);
  options.max_context = 256;
  options.kv_memory_bytes = 2 << 20;  // about 512 tokens for 16 sequences
  auto tight = LoadSample("sample-moe", options);
  ASSERT_TRUE(roomy != nullptr && tight != nullptr);
  EXPECT_EQ(AskAllAtOnce(*tight, 100), AskAllAtOnce(*roomy, 100));
  EXPECT_GT(tight->stats().preemptions, 0u);
}

// So much in all, for sequences of up to 256 tokens; the split moves when asked.
EngineOptions Budget(uint64_t mib) {
  EngineOptions options;
  options.memory_bytes = mib << 20;
  options.max_context = 256;
  options.move_memory = false;
  return options;
}

TEST(EngineMemoryTest, MovingTheSplitChangesNoToken) {
  auto plain = LoadSample("sample-moe", Budget(1024));
  ASSERT_NE(plain, nullptr);
  const auto expected = AskAllAtOnce(*plain, 24);
  auto engine = LoadSample("sample-moe", Budget(48));
  ASSERT_NE(engine, nullptr);
  const MemoryPlan before = engine->memory();
  ASSERT_LT(before.experts, before.all_experts);
  const uint64_t most = before.kv + before.experts;
  std::atomic<bool> done{false};
  std::thread mover([&] {
    for (uint64_t i = 0; !done; ++i) {
      const uint64_t bytes = i % 2 == 0 ? before.slot : std::min(most / 4 * 3, before.all_experts);
      const auto plan = engine->SetExpertMemory(bytes);
      EXPECT_TRUE(plan.ok()) << plan.status();
      if (!plan.ok()) return;
      EXPECT_EQ(plan->experts, bytes);
      EXPECT_LE(plan->weights + plan->work_space + plan->kv + plan->experts, plan->budget);
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(AskAllAtOnce(*engine, 24), expected);
  done = true;
  mover.join();

  ASSERT_TRUE(engine->SetExpertMemory(before.experts / 2).ok());
  EXPECT_EQ(AskAllAtOnce(*engine, 24), expected);
  EXPECT_EQ(engine->stats().experts.capacity_bytes, before.experts / 2);
  EXPECT_LE(engine->stats().experts.resident_bytes, before.experts / 2);
  EXPECT_EQ(engine->stats().kv_blocks_used, 0);
  const std::optional<ExpertReport> report = engine->experts();
  ASSERT_TRUE(report.has_value());
  uint64_t resident = 0, all = 0;
  for (const ExpertReport::Layer& layer : report->layers) {
    EXPECT_LE(layer.resident_bytes, layer.bytes);
    resident += layer.resident_bytes;
    all += layer.bytes;
  }
  EXPECT_EQ(resident, engine->stats().experts.resident_bytes);
  EXPECT_EQ(all, before.all_experts);
  EXPECT_EQ(report->layers.size(), engine->model().moe_layers);
  EXPECT_GT(report->demand_reads.count(), 0u);
  EXPECT_LE(report->demand_reads.count(), engine->stats().experts.misses);
  EXPECT_FALSE(report->policy.empty() || report->reader.empty());
  EXPECT_EQ(engine->SetExpertMemory(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->SetExpertMemory(most * 2).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(EngineMemoryTest, ADenseModelHasNoSplit) {
  auto engine = LoadSample("sample-dense", Budget(1024));
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->SetExpertMemory(1).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(engine->experts().has_value());
}

TEST(EngineKernelsTest, RefusesThoseThatTheCpuLacks) {
  EngineOptions options;
  options.kernels = "z80";
  const auto engine = Engine::Load(kModels + "sample-moe", options);
  ASSERT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(engine.status().message().find("z80"), std::string::npos) << engine.status();
  EXPECT_NE(engine.status().message().find("portable"), std::string::npos) << engine.status();
}

TEST(EngineMemoryTest, RefusesABudgetThatIsTooSmall) {
  EngineOptions options;
  options.memory_bytes = 4 << 20;
  const auto engine = Engine::Load(kModels + "sample-moe", options);
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kResourceExhausted);
}

// A copy of the MoE model that a test may damage.
class DamagedFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 ("hostler_damaged_" + std::to_string(::getpid()));
    std::filesystem::copy(kModels + "sample-moe", directory_);
    options_.memory_bytes = uint64_t{1} << 30;
    options_.expert_memory_bytes = 2 << 20;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path directory_;
  EngineOptions options_;
};

TEST_F(DamagedFileTest, ATruncatedFileFailsRequestsNotTheProcess) {
  auto engine = Engine::Load(directory_.string(), options_);
  ASSERT_TRUE(engine.ok()) << engine.status();
  ASSERT_TRUE(Ask(**engine, Greedy({5, 6, 7}, 4)).status.ok());
  std::filesystem::resize_file(directory_ / "model.safetensors", 4 << 20);
  for (int i = 0; i < 3; ++i) {
    const Answer answer = Ask(**engine, Greedy({100 + i, 200, 300}, 50));
    EXPECT_FALSE(answer.status.ok());
    EXPECT_NE(std::string(answer.status.message()).find("model.safetensors"), std::string::npos)
        << answer.status;
  }
}

}  // namespace
}  // namespace hostler
