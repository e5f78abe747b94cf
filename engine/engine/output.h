// What becomes of a step's logits: logprobs, the next token, its text, stops.
#pragma once

#include <span>

#include "engine/engine/request.h"
#include "engine/engine/sequence.h"
#include "engine/text/tokenizer.h"

namespace hostler {

// log softmax(logits) of `token`, and of the `top` most likely tokens. Of the
// raw logits, before any penalty or temperature. `tokenizer` may be null.
PositionLogprobs MakeLogprobs(std::span<const float> logits, int32_t token, int top,
                              const Tokenizer* tokenizer);

// Draws the sequence's next token from the logits [vocab] after its last one
// and appends it. `*event`, whose old contents go and whose memory is used again,
// says what the client is to see; it has a finish reason when the sequence ended
// with this token.
void NextToken(Sequence& sequence, std::span<const float> logits, const Tokenizer* tokenizer,
               GenerateEvent* event);

}  // namespace hostler
