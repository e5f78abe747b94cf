// Counts what a step in which sequences generate allocates, in all threads but the
// clients'. In a binary of its own, since it replaces operator new.
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "cache/count_allocations.h"
#include "engine/engine/test_engine.h"

namespace hostler {
namespace {

// A client that reads tokens as a front end does: the events' memory goes back
// and forth.
class Client {
 public:
  explicit Client(std::shared_ptr<GenerateStream> stream) : stream_(std::move(stream)) {}

  void Read(int tokens) {
    while (tokens > 0 && !stream_->ended()) {
      if (stream_->TryPop(&event_)) {
        tokens -= static_cast<int>(event_.token_ids.size());
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
  }

 private:
  std::shared_ptr<GenerateStream> stream_;
  GenerateEvent event_;
};

void ReadInTurn(std::vector<Client>& clients, int tokens) {
  for (int i = 0; i < tokens; ++i) {
    for (Client& client : clients) client.Read(1);
  }
}

int AllocationsOfOthers() { return CountAllocations() - CountOwnAllocations(); }

// Allocations in some hundred steps of `batch` sequences, all experts resident.
int AllocationsOfSteps(int batch) {
  constexpr int kWarmUp = 600, kSteps = 300;
  EngineOptions options;
  options.memory_bytes = uint64_t{512} << 20;
  options.threads = 2;
  const std::unique_ptr<Engine> engine = LoadSample("sample-moe", options);
  if (engine == nullptr) return -1;
  std::vector<Client> clients;
  for (auto& prompt : MixedPrompts(batch)) {
    auto stream = engine->Submit(Greedy(std::move(prompt), kWarmUp + 2 * kSteps));
    EXPECT_TRUE(stream.ok()) << stream.status();
    clients.emplace_back(*std::move(stream));
  }
  // Until every place of the streams has been used, and again: a client which lags
  // later, on a busy machine, then changes nothing.
  while (engine->stats().paused < batch) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ReadInTurn(clients, kWarmUp);
  const uint64_t steps = engine->stats().steps;
  const int before = AllocationsOfOthers();
  EXPECT_GT(before, 0) << "nothing is counted";
  ReadInTurn(clients, kSteps);
  const int after = AllocationsOfOthers();
  EXPECT_GE(engine->stats().steps - steps, uint64_t{kSteps} / 2);
  return after - before;
}

TEST(AllocationTest, AStepOfOneSequenceAllocatesNothing) { EXPECT_EQ(AllocationsOfSteps(1), 0); }

TEST(AllocationTest, AStepOfEightSequencesAllocatesNothing) { EXPECT_EQ(AllocationsOfSteps(8), 0); }

}  // namespace
}  // namespace hostler
