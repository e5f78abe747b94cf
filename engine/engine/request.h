// GenerateRequest: what a client asked for. Both front ends make one, and
// every layer below speaks in its terms.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "nlohmann/json.hpp"

namespace hostler {

// How the next token is drawn. Unset values are the model's own defaults
// (generation_config.json), or else those in the comments. Steps and their
// order: logit_bias, penalties, temperature, min_p, top_k, top_p (vLLM v1).
struct SamplingParams {
  std::optional<double> temperature;         // 1; 0 is greedy
  std::optional<int> top_k;                  // 0: off
  std::optional<double> top_p;               // 1: off
  std::optional<double> min_p;               // 0: off
  std::optional<double> repetition_penalty;  // 1: off; prompt and output (CTRL)
  double presence_penalty = 0;               // output only (OpenAI)
  double frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::optional<uint64_t> seed;  // same seed, same tokens; unset: random
};

// Messages for the model's chat template.
struct ChatPrompt {
  nlohmann::ordered_json messages;   // array, OpenAI's shape
  nlohmann::ordered_json tools;      // array or null
  nlohmann::ordered_json documents;  // array or null
  nlohmann::ordered_json variables;  // object: further template variables
  bool add_generation_prompt = true;
};

using TokenPrompt = std::vector<int32_t>;

struct UpstreamBody;  // router/upstream_body.h
struct RouteWish;     // router/route_wish.h

struct GenerateRequest {
  std::string id;     // unique; the front end makes it
  std::string model;  // as the client wrote it; "" = the default
  std::variant<std::string, TokenPrompt, ChatPrompt> prompt;
  bool add_special_tokens = true;  // to a text prompt; a chat template writes its own

  SamplingParams sampling;
  int n = 1;                      // sequences from this prompt
  std::optional<int> max_tokens;  // unset: as many as the context takes
  int min_tokens = 0;             // before this many, no stop of any kind
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop_str = false;  // keep the stop string in the text
  bool skip_special_tokens = true;

  // Per generated token: its own logprob and this many most likely ones.
  std::optional<int> logprobs;
  // The same for prompt tokens (all but the first).
  std::optional<int> prompt_logprobs;

  // Only requests with the same salt find each other's KV in the prefix cache.
  std::string cache_salt;

  // As the client wrote it, for targets that take JSON; engines look away. Null
  // when it came otherwise, or when no target takes JSON.
  std::shared_ptr<const UpstreamBody> original;
  // What the client says about routing; null: nothing. Engines look away.
  std::shared_ptr<const RouteWish> route;

  std::chrono::steady_clock::time_point arrival = std::chrono::steady_clock::now();
};

enum class FinishReason { kStop, kLength, kCancelled, kError };

// What clients, logs and metrics call it: vLLM's names.
constexpr std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "abort";
    case FinishReason::kError:
      return "error";
  }
  return "error";
}

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
  std::string bytes;  // what the token stands for
};

struct PositionLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // most likely first
};

// News of one sequence. Its last event has finish_reason set.
struct GenerateEvent {
  int index = 0;                           // 0 <= index < n
  std::string text;                        // whole UTF-8 characters only
  std::vector<int32_t> token_ids;          // since its last event
  std::vector<PositionLogprobs> logprobs;  // one for each token id, if asked
  std::optional<FinishReason> finish_reason;
  std::string stop_reason;  // the stop string that ended it, if one did

  // Of an upstream, which does not tell ids: how many tokens this is, about.
  int unnamed_tokens = 0;
  // An upstream's own JSON, to be passed on as it is: of one event of a stream,
  // or the whole answer. It may tell of several sequences: the first event of
  // those has it. Events without it that follow one with it add nothing to the
  // answer.
  std::string wire;
};

// What became of the prompt; known before the first event.
struct PromptInfo {
  std::vector<int32_t> token_ids;
  std::vector<PositionLogprobs> logprobs;  // of token_ids[1..], if asked
};

struct Usage {
  int prompt_tokens = 0;
  int cached_prompt_tokens = 0;  // found in the prefix cache
  int completion_tokens = 0;     // of all n sequences
};

// Milliseconds since arrival, except where a length is named.
struct Timings {
  double queued_ms = 0;       // until the first row was computed
  double first_token_ms = 0;  // until the first token of any sequence
  double total_ms = 0;        // until the last sequence ended
  int preemptions = 0;
};

}  // namespace hostler
