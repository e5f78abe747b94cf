// What becomes of a step's logits: logprobs, the next token, its text, stops.
#pragma once

#include <optional>
#include <span>

#include "engine/engine/request.h"
#include "engine/engine/sequence.h"
#include "engine/text/tokenizer.h"

namespace hostler {

// log softmax(logits) of `token`, and of the `top` most likely tokens. Of the
// raw logits, before any penalty or temperature. `tokenizer` may be null.
PositionLogprobs MakeLogprobs(std::span<const float> logits, int32_t token, int top,
                              const Tokenizer* tokenizer);

// How many of the strongest logits after the sequence's last token its next one and what
// the client is told of it need; 0: all.
int StrongestNeeded(const Sequence& sequence);

// Draws the sequence's next token from the logits [vocab] after its last one; or from the
// strongest of `vocab`, if they tell.
int32_t DrawToken(Sequence& sequence, std::span<const float> logits);
std::optional<int32_t> DrawToken(Sequence& sequence, std::span<const LogitCandidate> strongest,
                                 int vocab);

// Appends the token that was drawn. `logits` are there if the request wants logprobs.
// `*event`, whose old contents go and whose memory is used again, says what the client is
// to see; it has a finish reason when the sequence ended with this token.
void AddToken(Sequence& sequence, int32_t token, std::span<const float> logits,
              const Tokenizer* tokenizer, GenerateEvent* event);

}  // namespace hostler
