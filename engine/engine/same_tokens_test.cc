// The same tokens whatever the speed settings: memory for experts, what is read
// ahead, how it is read, threads, how many are served at once, and memory that
// moves meanwhile. bench/same_tokens.py does the same to a server at length.
#include <array>
#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine/test_engine.h"

namespace hostler {
namespace {

constexpr int kTokens = 24;

struct Speed {
  int percent = 100;  // of the experts' bytes; 0: one slot
  Prefetch prefetch = Prefetch::kOff;
  int threads = 1;
  int clients = 16;       // at once
  int step_tokens = 512;  // 48 cuts the longer prompts
  bool moving = false;    // the memory, up and down
};

// All budgets with all that can be read ahead, and each of the other settings
// with each of both.
std::vector<Speed> Speeds() {
  std::vector<Speed> speeds;
  int i = 0;
  for (const int percent : {50, 25, 10, 0}) {
    for (const Prefetch prefetch :
         {Prefetch::kOff, Prefetch::kAuto, Prefetch::kGate, Prefetch::kTransitions}) {
      const int other = i / 4 + i % 4;
      speeds.push_back({percent, prefetch, 1 + other % 2, std::array{16, 5, 1}[i % 3],
                        other % 4 < 2 ? 512 : 48, i % 5 == 2});
      ++i;
    }
  }
  speeds.push_back({100, Prefetch::kAuto, 2, 16, 48, false});
  speeds.push_back({100, Prefetch::kOff, 1, 5, 512, true});
  return speeds;
}

// The tokens of MixedPrompts(), so many of them at once.
std::vector<std::vector<int32_t>> AskInGroups(Engine& engine, int clients) {
  std::vector<std::vector<int32_t>> out;
  std::vector<GenerateRequest> group;
  const auto prompts = MixedPrompts();
  for (size_t i = 0; i < prompts.size(); ++i) {
    group.push_back(Greedy(prompts[i], kTokens));
    if (group.size() < size_t(clients) && i + 1 < prompts.size()) continue;
    for (TokensAnswered& answer : AnswerAtOnce(engine, group)) {
      EXPECT_TRUE(answer.status.ok()) << answer.status;
      out.push_back(std::move(answer.tokens));
    }
    group.clear();
  }
  return out;
}

// Sets the experts' memory to one slot and back, again and again.
class Mover {
 public:
  explicit Mover(Engine* engine)
      : thread_([this, engine] {
          const MemoryPlan plan = engine->memory();
          for (int i = 0; !done_; ++i) {
            EXPECT_TRUE(engine->SetExpertMemory(i % 2 == 0 ? plan.slot : plan.experts).ok());
            std::this_thread::sleep_for(std::chrono::milliseconds(3));
          }
        }) {}
  ~Mover() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

struct Memory {
  Quantize quantize;
  int percent;
};

class SameTokensTest : public ::testing::TestWithParam<Memory> {};

TEST_P(SameTokensTest, WhateverTheSpeedSettings) {
  EngineOptions options;
  options.memory_bytes = uint64_t{1} << 30;
  options.quantize = GetParam().quantize;
  options.threads = 1;
  std::vector<std::vector<int32_t>> alone;
  uint64_t all_experts = 0;
  {
    const auto engine = LoadSample("sample-moe", options);
    ASSERT_NE(engine, nullptr);
    all_experts = engine->memory().all_experts;
    alone = AskInGroups(*engine, 1);
  }
  for (const Speed& speed : Speeds()) {
    if (speed.percent != GetParam().percent) continue;
    // Quantising experts as they are read makes small budgets slow.
    if (GetParam().quantize != Quantize::kNone && speed.moving) continue;
    SCOPED_TRACE(testing::Message()
                 << speed.percent << "% of the experts, prefetch " << int(speed.prefetch) << ", "
                 << speed.threads << " threads, " << speed.clients << " at once, steps of "
                 << speed.step_tokens << (speed.moving ? ", memory moving" : ""));
    options.expert_memory_bytes =
        std::max<uint64_t>(all_experts * speed.percent / 100, uint64_t{200} << 10);
    options.expert_prefetch = speed.prefetch;
    options.threads = speed.threads;
    options.step_tokens = speed.step_tokens;
    const auto engine = LoadSample("sample-moe", options);
    ASSERT_NE(engine, nullptr);
    std::optional<Mover> mover;
    if (speed.moving) mover.emplace(engine.get());
    EXPECT_EQ(AskInGroups(*engine, speed.clients), alone);
    mover.reset();
    const ExpertCacheStats cache = engine->stats().experts;
    EXPECT_EQ(cache.pinned_slots, 0);
    EXPECT_EQ(cache.read_errors, 0u);
    EXPECT_LE(cache.resident_bytes, options.expert_memory_bytes);
    if (speed.percent == 100 && !speed.moving) {
      EXPECT_EQ(cache.evictions, 0u);
    } else {
      EXPECT_GT(cache.evictions, 0u);
    }
    if (speed.percent < 100 && speed.percent > 0 && speed.prefetch != Prefetch::kAuto &&
        speed.prefetch != Prefetch::kOff) {
      EXPECT_GT(cache.speculative_bytes, 0u);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Memory, SameTokensTest,
                         ::testing::Values(Memory{Quantize::kNone, 100},
                                           Memory{Quantize::kNone, 50}, Memory{Quantize::kNone, 25},
                                           Memory{Quantize::kNone, 10}, Memory{Quantize::kNone, 0},
                                           Memory{Quantize::kQ8, 100}, Memory{Quantize::kQ8, 50},
                                           Memory{Quantize::kQ8, 25}),
                         [](const auto& info) {
                           return (info.param.quantize == Quantize::kNone ? "AsStored" : "Q8") +
                                  std::to_string(info.param.percent);
                         });

}  // namespace
}  // namespace hostler
