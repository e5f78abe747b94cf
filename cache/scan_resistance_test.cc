// A long prompt beside decodes, as the cache sees it: every step asks for all
// experts of every layer, once. What the decodes use must still be there.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string_view>
#include <vector>

#include "cache/expert_cache.h"
#include "cache/fake_store.h"

namespace hostler {
namespace {

constexpr int kLayers = 6, kExperts = 32, kTopk = 4, kChunkRows = 64;
constexpr size_t kSlotBytes = 4096;

class ScanResistanceTest : public ::testing::Test {
 protected:
  // Two sequences that decode, and like six experts of each layer.
  ScanResistanceTest() : store_(std::vector<FakeStore::Layer>(kLayers, {kExperts, kSlotBytes})) {}

  void Open(std::string_view policy, int slots) {
    cache_ = nullptr;
    control_ = std::make_unique<ReadControl>(&store_);
    auto cache = ExpertCache::Create({.capacity_bytes = slots * kSlotBytes, .speculative_reads = 0},
                                     &store_, control_->NewReader(8),
                                     *NewEvictionPolicy(policy, {kLayers, kExperts}));
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }

  // Hits of the decodes' choices, per cent, over so many steps; with a chunk of a
  // prompt in each, which the counts leave out.
  double Decode(int steps, bool prompt) {
    int hits = 0, lookups = 0;
    for (int step = 0; step < steps; ++step) {
      for (int layer = 0; layer < kLayers; ++layer) {
        const Choices choices = Choose(layer, prompt);
        const uint64_t before = cache_->stats().hits;
        std::vector<int> asked = choices.wanted;
        ExpertCache::Acquisition acquisition = cache_->Acquire(
            {layer, asked, choices.offsets, choices.chosen, prompt ? 3 : 2, prompt ? 2 : 0});
        if (!prompt) hits += static_cast<int>(cache_->stats().hits - before);
        lookups += static_cast<int>(asked.size());
        while (!acquisition.Next().empty()) {
        }
      }
    }
    return 100.0 * hits / lookups;
  }

  FakeStore store_;
  std::unique_ptr<ReadControl> control_;
  std::unique_ptr<ExpertCache> cache_;

 private:
  struct Choices {
    std::vector<int> wanted, offsets = {0}, chosen;
  };

  Choices Choose(int layer, bool prompt) {
    Choices choices;
    std::vector<char> used(kExperts);
    const auto add = [&](const auto& draw) {
      std::vector<int> row;
      while (row.size() < kTopk) {
        const int expert = draw();
        if (std::find(row.begin(), row.end(), expert) == row.end()) row.push_back(expert);
      }
      for (const int expert : row) used[expert] = 1;
      choices.chosen.insert(choices.chosen.end(), row.begin(), row.end());
      choices.offsets.push_back(static_cast<int>(choices.chosen.size()));
    };
    const auto any = [this] { return static_cast<int>(random_() % kExperts); };
    for (int sequence = 0; sequence < 2; ++sequence) {
      add([&] { return random_() % 20 == 0 ? any() : static_cast<int>(layer + random_() % 6); });
    }
    for (int row = 0; prompt && row < kChunkRows; ++row) add(any);
    for (int expert = 0; expert < kExperts; ++expert) {
      if (used[expert]) choices.wanted.push_back(expert);
    }
    return choices;
  }

  std::mt19937 random_{3};
};

TEST_F(ScanResistanceTest, APromptLeavesTheDecodesWhatTheyUse) {
  for (const int slots : {kLayers * 8, kLayers * 16}) {
    SCOPED_TRACE(slots);
    double after_lru = 0;
    for (const std::string_view policy : {"lru", "default"}) {
      Open(policy, slots);
      Decode(100, false);
      const double before = Decode(50, false);
      Decode(10, true);
      const double after = Decode(3, false);
      if (policy == "lru") {
        after_lru = after;
      } else {
        EXPECT_GT(before, 80);
        EXPECT_GT(after, before - 8);
        EXPECT_GT(after, after_lru + 15);
      }
    }
  }
}

}  // namespace
}  // namespace hostler
