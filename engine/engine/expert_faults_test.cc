// Reads that fail, files that shrink or vanish and memory that is taken away,
// while several requests are served from few slots: those that cannot be
// answered say why, the rest answer as if nothing had happened.
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine/faulty_disk.h"
#include "engine/engine/test_engine.h"
#include "engine/model/pack.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Method = ReaderOptions::Method;

const fs::path kModel = fs::path(HOSTLER_SOURCE_DIR) / "models/sample-moe";
constexpr uint64_t kOneSlot = 200 << 10;

// Short ones, so that each needs some experts and not others.
std::vector<GenerateRequest> ShortRequests() {
  std::vector<GenerateRequest> requests;
  for (int32_t i = 0; i < 12; ++i) requests.push_back(Greedy({100 + 61 * i, 7 + 200 * i}, 4));
  return requests;
}

std::string Message(const TokensAnswered& answer) { return std::string(answer.status.message()); }

class ExpertFaultsTest : public ::testing::TestWithParam<Method> {
 protected:
  // The model served from so much memory for experts.
  std::unique_ptr<Engine> Serve(uint64_t expert_bytes, Prefetch prefetch) {
    EngineOptions options;
    options.memory_bytes = uint64_t{1} << 30;
    options.expert_memory_bytes = expert_bytes;
    options.expert_prefetch = prefetch;
    options.threads = 1;
    options.wrap_reader = [this](std::unique_ptr<Reader> reader) {
      reader = faults_.Wrap(std::move(reader), GetParam());
      reader_name_ = reader->name();
      return reader;
    };
    auto engine = LoadSample("sample-moe", options);
    if (engine != nullptr && GetParam() == Method::kPread) {
      EXPECT_EQ(reader_name_, "pread");
    }
    return engine;
  }

  ReadFaults faults_{(kModel / "model.safetensors").string()};
  std::string reader_name_;
};

TEST_P(ExpertFaultsTest, ReadsThatFailOnceOrTwiceChangeNoToken) {
  const auto expected = AskAllAtOnce(*Serve(uint64_t{1} << 28, Prefetch::kOff), 12);
  for (const int failures : {1, 2}) {
    for (const Prefetch prefetch : {Prefetch::kOff, Prefetch::kGate}) {
      SCOPED_TRACE(testing::Message() << failures << " failures, prefetch " << int(prefetch));
      const auto engine = Serve(4 << 20, prefetch);
      ASSERT_NE(engine, nullptr);
      faults_.FailOfThree(failures);
      EXPECT_EQ(AskAllAtOnce(*engine, 12), expected);
      faults_.FailOfThree(0);
      const ExpertCacheStats cache = engine->stats().experts;
      EXPECT_GT(cache.read_retries, 1000u);
      if (prefetch == Prefetch::kOff) {
        EXPECT_EQ(cache.read_errors, 0u);
      }
      EXPECT_EQ(cache.pinned_slots, 0);
    }
  }
}

// An expert that some of ShortRequests() need and some do not.
struct Chosen {
  uint64_t expert = 0;
  std::set<size_t> needed_by;
};

// With one slot and no guesses, what a request reads is what it needs.
Chosen ChooseExpert(Engine& one_slot, ReadFaults& faults) {
  std::map<uint64_t, std::set<size_t>> needed_by;
  const std::vector<GenerateRequest> requests = ShortRequests();
  for (size_t i = 0; i < requests.size(); ++i) {
    faults.TakeRead();
    TokensOf(one_slot, requests[i]);
    for (const uint64_t expert : faults.TakeRead()) needed_by[expert].insert(i);
  }
  for (const auto& [expert, by] : needed_by) {
    if (by.size() >= 4 && by.size() <= 6) return {expert, by};
  }
  return {};
}

TEST_P(ExpertFaultsTest, AnExpertThatCannotBeReadFailsThoseThatNeedItUntilItCan) {
  Chosen chosen;
  {
    const auto engine = Serve(kOneSlot, Prefetch::kOff);
    ASSERT_NE(engine, nullptr);
    chosen = ChooseExpert(*engine, faults_);
  }
  ASSERT_FALSE(chosen.needed_by.empty());
  BreakableFile file(kModel / "model.safetensors");
  const Extent last = faults_.ExtentsOf(chosen.expert).back();
  // The whole of it, or from the middle on, where reads come short first.
  for (const uint64_t spared : {uint64_t{0}, last.bytes / 2}) {
    const auto engine = Serve(2 << 20, Prefetch::kGate);
    ASSERT_NE(engine, nullptr);
    const auto expected = AnswerAtOnce(*engine, ShortRequests());
    if (!file.Attach()) GTEST_SKIP() << "this system maps nothing at low addresses";
    file.Break(last.offset + spared, last.bytes - spared);
    // It leaves, if it is in: another takes the only slot.
    ASSERT_TRUE(engine->SetExpertMemory(engine->memory().slot).ok());
    for (size_t i = 0; i < expected.size(); ++i) {
      if (!chosen.needed_by.contains(i)) TokensOf(*engine, ShortRequests()[i]);
    }
    ASSERT_TRUE(engine->SetExpertMemory(2 << 20).ok());
    const auto answers = AnswerAtOnce(*engine, ShortRequests());
    std::string failed_expert;
    for (size_t i = 0; i < answers.size(); ++i) {
      SCOPED_TRACE(i);
      if (!chosen.needed_by.contains(i)) {
        EXPECT_TRUE(answers[i].status.ok()) << answers[i].status;
        EXPECT_EQ(answers[i].tokens, expected[i].tokens);
        continue;
      }
      EXPECT_TRUE(absl::IsUnavailable(answers[i].status)) << answers[i].status;
      EXPECT_THAT(Message(answers[i]), AllOf(HasSubstr("MoE layer "), HasSubstr(", expert "),
                                             HasSubstr("model.safetensors: read at offset "),
                                             HasSubstr("Input/output error")));
      if (failed_expert.empty()) failed_expert = Message(answers[i]);
      EXPECT_EQ(Message(answers[i]), failed_expert);
      // What came before it failed is right.
      EXPECT_LE(answers[i].tokens.size(), expected[i].tokens.size());
      EXPECT_TRUE(std::equal(answers[i].tokens.begin(), answers[i].tokens.end(),
                             expected[i].tokens.begin()));
    }
    EXPECT_GT(engine->stats().experts.read_errors, 0u);
    file.Heal();
    const auto healed = AnswerAtOnce(*engine, ShortRequests());
    for (size_t i = 0; i < healed.size(); ++i) {
      EXPECT_TRUE(healed[i].status.ok()) << healed[i].status;
      EXPECT_EQ(healed[i].tokens, expected[i].tokens) << i;
    }
    EXPECT_EQ(engine->stats().experts.pinned_slots, 0);
  }
}

TEST_P(ExpertFaultsTest, ADiskThatGoesAwayWhileServingAndComesBack) {
  const auto engine = Serve(2 << 20, Prefetch::kAuto);
  ASSERT_NE(engine, nullptr);
  const auto expected = AskAllAtOnce(*engine, 24);
  BreakableFile file(kModel / "model.safetensors");
  if (!file.Attach()) GTEST_SKIP() << "this system maps nothing at low addresses";
  std::vector<GenerateRequest> requests;
  for (auto& prompt : MixedPrompts()) requests.push_back(Greedy(std::move(prompt), 1000));
  const uint64_t before = engine->stats().generated_tokens;
  std::thread away([&] {
    while (engine->stats().generated_tokens < before + 100) std::this_thread::yield();
    file.BreakAll();
  });
  for (const TokensAnswered& answer : AnswerAtOnce(*engine, requests)) {
    EXPECT_TRUE(absl::IsUnavailable(answer.status)) << answer.status;
    EXPECT_THAT(Message(answer), HasSubstr("Input/output error"));
  }
  away.join();
  file.Heal();
  EXPECT_EQ(AskAllAtOnce(*engine, 24), expected);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.experts.pinned_slots, 0);
  EXPECT_EQ(stats.kv_blocks_used, 0);
}

TEST_P(ExpertFaultsTest, MemoryTakenAndGivenWhileEightGenerateChangesNoToken) {
  constexpr int kClients = 8, kTokens = 64;
  const auto resident = Serve(uint64_t{1} << 28, Prefetch::kOff);
  ASSERT_NE(resident, nullptr);
  const auto expected = AskAllAtOnce(*resident, kTokens, kClients);
  const MemoryPlan plan = resident->memory();
  const auto engine = Serve(plan.all_experts / 2, Prefetch::kAuto);
  ASSERT_NE(engine, nullptr);
  std::atomic<bool> done{false};
  int moves = 0;
  std::thread mover([&] {
    const std::vector<uint64_t> sizes = {plan.slot, plan.all_experts, plan.all_experts / 10,
                                         plan.all_experts / 2, plan.slot * 3};
    for (; !done; ++moves) {
      const auto moved = engine->SetExpertMemory(sizes[moves % sizes.size()]);
      EXPECT_TRUE(moved.ok()) << moved.status();
      const uint64_t steps = engine->stats().steps;
      for (int i = 0; i < 200 && !done && engine->stats().steps < steps + 2; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
  });
  EXPECT_EQ(AskAllAtOnce(*engine, kTokens, kClients), expected);
  done = true;
  mover.join();
  EXPECT_GE(moves, 10);
  ASSERT_TRUE(engine->SetExpertMemory(plan.slot).ok());
  EXPECT_EQ(AskAllAtOnce(*engine, 4, kClients), AskAllAtOnce(*resident, 4, kClients));
  const ExpertCacheStats cache = engine->stats().experts;
  EXPECT_LE(cache.resident_bytes, plan.slot);
  EXPECT_EQ(cache.pinned_slots, 0);
  EXPECT_EQ(cache.read_errors, 0u);
}

INSTANTIATE_TEST_SUITE_P(Readers, ExpertFaultsTest,
                         ::testing::Values(Method::kAuto, Method::kPread), [](const auto& info) {
                           return info.param == Method::kPread ? "Pread" : "Uring";
                         });

// A packed store, whose experts lie in a file of their own.
class StoreFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    store_ = fs::path(::testing::TempDir()) / ("faulty_store_" + std::to_string(::getpid()));
    const auto packed = PackModel(kModel.string(), store_.string(), {});
    ASSERT_TRUE(packed.ok()) << packed.status();
    EngineOptions options;
    options.memory_bytes = uint64_t{1} << 30;
    options.expert_memory_bytes = 2 << 20;
    options.threads = 1;
    auto engine = Engine::Load(store_.string(), options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    expected_ = AskAllAtOnce(*engine_, 8);
  }
  void TearDown() override {
    engine_ = nullptr;
    fs::remove_all(store_);
  }

  fs::path store_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::vector<int32_t>> expected_;
};

TEST_F(StoreFaultsTest, AFileCutShortFailsWhatLayBehindAndServesAgainOnceItIsWhole) {
  const fs::path experts = store_ / "experts.bin", copy = store_ / "copy";
  fs::copy(experts, copy);
  // The last layer's experts, some of which every request needs.
  fs::resize_file(experts, fs::file_size(experts) * 9 / 10);
  int failed = 0;
  for (const GenerateRequest& request : ShortRequests()) {
    const TokensAnswered answer = AnswerAtOnce(*engine_, {request}).front();
    if (answer.status.ok()) continue;
    ++failed;
    EXPECT_TRUE(absl::IsDataLoss(answer.status)) << answer.status;
    EXPECT_THAT(Message(answer), AllOf(HasSubstr("MoE layer 7, expert "),
                                       HasSubstr("experts.bin: the file ends at or before")));
  }
  EXPECT_GT(failed, 6);
  {
    std::ofstream whole(experts, std::ios::binary | std::ios::trunc);
    whole << std::ifstream(copy, std::ios::binary).rdbuf();
  }
  EXPECT_EQ(AskAllAtOnce(*engine_, 8), expected_);
}

TEST_F(StoreFaultsTest, AFileRemovedWhileServingIsReadOn) {
  fs::remove_all(store_);
  const uint64_t before = engine_->stats().experts.misses;
  EXPECT_EQ(AskAllAtOnce(*engine_, 8), expected_);
  EXPECT_GT(engine_->stats().experts.misses, before);
}

}  // namespace
}  // namespace hostler
