// Log probabilities in the three forms that the APIs have for them.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "engine/engine/request.h"

namespace hostler {

// Completions: four parallel arrays.
class CompletionLogprobs {
 public:
  // `offset`: characters of text before the first token.
  explicit CompletionLogprobs(int offset = 0) : offset_(offset) {}

  void Add(const PositionLogprobs& position);
  // A token with nothing before it, so that it has no probability.
  void AddFirst(std::string_view bytes);
  // Appends {"tokens":[…],"token_logprobs":[…],"top_logprobs":[…],"text_offset":[…]}.
  void AppendTo(std::string* out) const;
  // Forgets the tokens, keeps the offset.
  void Clear();

 private:
  void AddToken(std::string_view bytes);

  int offset_;
  // Each an array's elements with their commas.
  std::string tokens_, token_logprobs_, top_logprobs_, text_offsets_;
};

// Chat: appends one element of "content", after a comma unless `out` is empty.
void AppendChatLogprob(const PositionLogprobs& position, std::string* out);

// vLLM's prompt_logprobs: appends [null,{"17":{"logprob":…,"rank":1,"decoded_token":…}},…].
void AppendPromptLogprobs(std::span<const PositionLogprobs> positions, std::string* out);

}  // namespace hostler
