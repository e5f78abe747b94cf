// For tests: an acquisition of some experts of a layer, by chance, among guesses and with
// an end before everything was delivered.
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "cache/expert_cache.h"
#include "cache/fake_store.h"
#include "gtest/gtest.h"

namespace hostler {

class StressRound {
 public:
  StressRound(const ExpertStore& store, std::mt19937& random) {
    const auto below = [&](int n) { return static_cast<int>(random() % n); };
    layer = below(store.num_layers());
    experts.resize(store.num_experts(layer));
    std::iota(experts.begin(), experts.end(), 0);
    std::shuffle(experts.begin(), experts.end(), random);
    experts.resize(below(static_cast<int>(experts.size()) + 1));
    if (below(5) == 0) calls_ = below(4);
    guesses_.resize(below(5));
    for (ExpertGuess& guess : guesses_) {
      guess.key.layer = below(store.num_layers());
      guess.key.expert = below(store.num_experts(guess.key.layer));
      guess.chance = 1;
    }
  }

  // Guesses, acquires, and expects each expert once: with its bytes, or where `may_fail`
  // with none. `on_taken` is told of each.
  void Run(ExpertCache& cache, const FakeStore& store,
           const std::function<bool(ExpertKey)>& may_fail,
           const std::function<void(const AcquiredExpert&)>& on_taken = {}) const {
    cache.Prefetch(guesses_);
    ExpertCache::Acquisition acquisition =
        cache.Acquire({.layer = layer, .experts = experts, .offsets = {}, .chosen = {}});
    std::multiset<int> delivered;
    for (int call = 0; call < calls_; ++call) {
      const std::span<const AcquiredExpert> ready = acquisition.Next();
      if (ready.empty()) {
        EXPECT_EQ(delivered, std::multiset<int>(experts.begin(), experts.end()));
        break;
      }
      for (const AcquiredExpert& expert : ready) {
        delivered.insert(expert.expert);
        const ExpertKey key = {layer, expert.expert};
        EXPECT_TRUE(expert.data == nullptr ? may_fail(key) : store.Matches(key, expert.data));
        if (on_taken) on_taken(expert);
      }
    }
    for (const int expert : delivered) EXPECT_EQ(delivered.count(expert), 1u);
  }

  int layer = 0;
  std::vector<int> experts;

 private:
  std::vector<ExpertGuess> guesses_;
  int calls_ = 1000;  // of Next(), at most
};

}  // namespace hostler
