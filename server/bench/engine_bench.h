// Measures an engine in this process: prefill and decode speed of B sequences
// at once, as llama-batched-bench does.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine/engine.h"
#include "nlohmann/json.hpp"
#include "server/bench/trace.h"

namespace hostler {

struct EngineBenchOptions {
  int prompt_tokens = 512;
  int gen_tokens = 64;
  std::vector<int> batches = {1};
  int repeat = 3;
  uint64_t seed = 1;
};

// One batch size. Speeds are medians over the repetitions.
struct EngineBenchRow {
  int batch = 0;
  double prefill_tokens_per_s = 0;  // all prompts, until the last first token
  double decode_tokens_per_s = 0;   // of all sequences together, all decoding
  double expert_hit_rate = 0;       // over all repetitions; 1 for a dense model
  uint64_t expert_read_bytes = 0;   // of one repetition, mean
  uint64_t preemptions = 0;         // over all repetitions
};

// Runs random prompts, each a new one. `progress` (may be null) hears what is
// being measured. Errors: the engine's; InvalidArgument when the lengths
// exceed its context.
absl::StatusOr<std::vector<EngineBenchRow>> BenchEngine(
    Engine* engine, const EngineBenchOptions& options,
    const std::function<void(const std::string&)>& progress);

nlohmann::ordered_json ToJson(const EngineBenchRow& row, const EngineBenchOptions& options);
std::string ToTable(const std::vector<EngineBenchRow>& rows, const EngineBenchOptions& options);

// Token ids to draw prompts from when nothing better is known: all but the
// first few, which are control tokens in most vocabularies.
IntRange OrdinaryIds(int vocab);

}  // namespace hostler
