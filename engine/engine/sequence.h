// Sequences and the requests they belong to, as the engine loop sees them.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine/request.h"
#include "engine/engine/sampler.h"
#include "engine/engine/stop_matcher.h"
#include "engine/engine/stream.h"
#include "engine/text/detokenizer.h"

namespace hostler {

// A request while it is being served. Owned by its sequences together; touched
// by the engine loop alone once it is queued.
struct RequestState {
  GenerateRequest request;
  std::shared_ptr<GenerateStream> stream;
  std::vector<int32_t> prompt;
  int max_tokens = 0;                        // resolved
  std::vector<int32_t> stop_ids;             // EOS and stop_token_ids
  std::vector<float>* all_logits = nullptr;  // Engine::Logits: every position's go here

  int live = 0;  // sequences not yet finished
  std::vector<PositionLogprobs> prompt_logprobs;
  bool prompt_told = false;  // the stream has its PromptInfo
  Usage usage;
  Timings timings;

  double MsSinceArrival() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() -
                                                     request.arrival)
        .count();
  }
};

// One completion being generated.
struct Sequence {
  Sequence(std::shared_ptr<RequestState> state, int index, const SamplingRule& rule, uint64_t seed,
           const Tokenizer* tokenizer)
      : request(std::move(state)),
        index(index),
        tokens(request->prompt),
        sampler(rule, seed, index, request->prompt),
        stops(request->request.stop, request->request.include_stop_str) {
    if (tokenizer != nullptr) {
      detokenizer =
          std::make_unique<IncrementalDetokenizer>(tokenizer, request->request.skip_special_tokens);
    }
  }

  int generated() const { return static_cast<int>(tokens.size() - request->prompt.size()); }
  int pending() const { return static_cast<int>(tokens.size()) - computed; }
  bool decodes() const { return pending() == 1 && generated() > 0; }

  // Every logit from this position on is still wanted.
  int logits_from() const {
    const int last = static_cast<int>(tokens.size()) - 1;
    return wants_prompt_logits() ? std::min(scored, last) : last;
  }
  bool wants_prompt_logits() const {
    return request->all_logits != nullptr ||
           (index == 0 && request->request.prompt_logprobs.has_value());
  }

  std::shared_ptr<RequestState> request;
  int index = 0;
  uint64_t order = 0;  // smaller came first; the scheduler's
  uint64_t turn = 0;   // to generate: smaller first; 0: never generated. The scheduler's
  // When its last step ended; unset while its client does not read.
  std::optional<std::chrono::steady_clock::time_point> computed_at;

  std::vector<int32_t> tokens;  // prompt, then what was generated
  int computed = 0;             // tokens whose KV is in the blocks
  int scored = 0;               // prompt positions whose logits were used
  std::vector<int32_t> blocks;
  int cached_blocks = 0;  // of `blocks`, the first ones, which can be found. The scheduler's
  int found = 0;          // tokens taken from the prefix cache and not yet counted. The scheduler's
  int32_t state = -1;     // slot of recurrent state; -1: none
  // Waits for sequence 0 of its request, whose prompt blocks it will find.
  bool waits_for_leader = false;

  Sampler sampler;
  StopMatcher stops;
  std::unique_ptr<IncrementalDetokenizer> detokenizer;  // null without a tokenizer
};

}  // namespace hostler
