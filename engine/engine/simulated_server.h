// A server without a model, for tests of what the scheduler decides: sequences
// with gate choices, a real eviction policy, a disk and a processor that take
// their time on a clock of their own.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "cache/policy.h"
#include "cache/trace.h"
#include "engine/engine/width_control.h"

namespace hostler {

// What token `token` of a sequence chooses in `layer`, distinct.
using Choices = std::function<std::span<const int>(int token, int layer)>;

// A sequence that walks through a trace's decode tokens, from the given one on
// and around.
class TracedTokens {
 public:
  explicit TracedTokens(const ExpertTrace& trace) : trace_(trace), lines_(trace.header.layers) {
    for (size_t i = 0; i < trace.lines.size(); ++i) {
      if (trace.lines[i].decode) lines_[trace.lines[i].layer].push_back(i);
    }
  }
  int tokens() const { return static_cast<int>(lines_[0].size()); }
  Choices From(int first) const {
    return [this, first](int token, int layer) {
      return trace_.experts(lines_[layer][size_t(first + token) % lines_[layer].size()]);
    };
  }

 private:
  const ExpertTrace& trace_;
  std::vector<std::vector<size_t>> lines_;
};

// Sequences of a topic prefer its experts: of every layer `hot` ones, mostly.
// Topics are as unlike as chance makes them.
class TopicTokens {
 public:
  TopicTokens(PolicyShape shape, int topk, int hot, double loyalty)
      : shape_(shape), topk_(topk), hot_(hot), loyalty_(loyalty) {}
  Choices Sequence(int topic, int number) const;

 private:
  const PolicyShape shape_;
  const int topk_, hot_;
  const double loyalty_;  // chance that a choice is one of the hot ones
};

inline Choices TopicTokens::Sequence(int topic, int number) const {
  struct State {
    std::vector<std::vector<int>> favourites;
    std::mt19937 random;
    std::vector<int> chosen;
  };
  auto state = std::make_shared<State>();
  state->random.seed(number + 1000);
  std::mt19937 of_topic(topic + 1);
  for (int layer = 0; layer < shape_.layers; ++layer) {
    std::vector<int>& experts = state->favourites.emplace_back(shape_.experts);
    for (int e = 0; e < shape_.experts; ++e) experts[e] = e;
    std::shuffle(experts.begin(), experts.end(), of_topic);
  }
  return [this, state](int, int layer) -> std::span<const int> {
    state->chosen.clear();
    while (static_cast<int>(state->chosen.size()) < topk_) {
      const bool loyal = std::uniform_real_distribution<>()(state->random) < loyalty_;
      const int among = loyal ? hot_ : shape_.experts;
      const int expert =
          state->favourites[layer][std::uniform_int_distribution<>(0, among - 1)(state->random)];
      if (std::find(state->chosen.begin(), state->chosen.end(), expert) == state->chosen.end()) {
        state->chosen.push_back(expert);
      }
    }
    return state->chosen;
  };
}

struct SimulatedMachine {
  double step_seconds = 0.002;  // of every step
  double row_seconds = 0.001;   // of every row more
  double read_seconds = 0.001;  // of one expert
  double noise = 0;             // a step takes up to this share longer
};

class SimulatedServer {
 public:
  SimulatedServer(PolicyShape shape, int64_t capacity, const SimulatedMachine& machine)
      : shape_(shape),
        capacity_(capacity),
        machine_(machine),
        policy_(NewLearnedPolicy(shape)),
        resident_(size_t(shape.layers) * shape.experts) {}

  struct Part {
    const Choices* choices;
    int first = 0;  // token
    int rows = 1;   // more: a chunk of a prompt
  };

  // Runs a step; says what it took, its prompt_rows those of parts with more
  // than one.
  StepSample Step(std::span<const Part> parts);

  double now() const { return now_; }
  uint64_t reads() const { return reads_; }
  uint64_t decode_hits() const { return decode_hits_; }
  uint64_t decode_lookups() const { return decode_lookups_; }

 private:
  size_t Index(int layer, int expert) const { return size_t(layer) * shape_.experts + expert; }
  int ReadMissing(const ExpertRequest& request);

  const PolicyShape shape_;
  const int64_t capacity_;
  const SimulatedMachine machine_;
  std::unique_ptr<EvictionPolicy> policy_;
  std::vector<uint8_t> resident_;
  int64_t used_ = 0;
  std::mt19937 random_{7};
  double now_ = 0;
  uint64_t reads_ = 0, decode_hits_ = 0, decode_lookups_ = 0;
};

inline int SimulatedServer::ReadMissing(const ExpertRequest& request) {
  policy_->OnRequest(request);
  std::vector<uint8_t> member(shape_.experts);
  for (const int expert : request.experts) member[expert] = 1;
  int missing = 0;
  for (const int expert : request.experts) {
    if (resident_[Index(request.layer, expert)]) continue;
    ++missing;
    if (used_ == capacity_) {
      ExpertKey victim;
      const auto evictable = [&](ExpertKey key) {
        return key.layer != request.layer || !member[key.expert];
      };
      if (!policy_->PickVictim(evictable, &victim)) continue;
      policy_->OnErase(victim);
      resident_[Index(victim.layer, victim.expert)] = 0;
      --used_;
    }
    resident_[Index(request.layer, expert)] = 1;
    policy_->OnInsert({request.layer, expert});
    ++used_;
  }
  return missing;
}

inline StepSample SimulatedServer::Step(std::span<const Part> parts) {
  StepSample cost;
  int rows = 0;
  for (const Part& part : parts) {
    rows += part.rows;
    part.rows > 1 ? void(cost.prompt_rows += part.rows) : void(++cost.decodes);
  }
  const double compute = (machine_.step_seconds + machine_.row_seconds * rows) / shape_.layers;
  std::vector<int> experts, offsets, chosen;
  std::vector<uint8_t> seen(shape_.experts);
  for (int layer = 0; layer < shape_.layers; ++layer) {
    experts.clear();
    chosen.clear();
    offsets.assign(1, 0);
    std::fill(seen.begin(), seen.end(), 0);
    for (const Part& part : parts) {
      for (int row = 0; row < part.rows; ++row) {
        for (const int expert : (*part.choices)(part.first + row, layer)) {
          chosen.push_back(expert);
          if (part.rows == 1) {
            ++decode_lookups_;
            decode_hits_ += resident_[Index(layer, expert)];
          }
          if (!std::exchange(seen[expert], 1)) experts.push_back(expert);
        }
        offsets.push_back(static_cast<int>(chosen.size()));
      }
    }
    const int missing =
        ReadMissing({layer, experts, offsets, chosen, static_cast<int>(parts.size())});
    reads_ += missing;
    cost.read_bytes += missing;
    // Resident experts compute while others come.
    const double hidden = compute * (1 - double(missing) / double(experts.size()));
    const double stall = std::max(0.0, missing * machine_.read_seconds - hidden);
    cost.stall_seconds += stall;
    cost.seconds += compute + stall;
  }
  cost.cache_bytes = capacity_;
  cost.seconds *= 1 + machine_.noise * std::uniform_real_distribution<>()(random_);
  now_ += cost.seconds;
  return cost;
}

}  // namespace hostler
