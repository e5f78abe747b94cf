// The sentence embedding of a prompt, for a predictor that was trained with it.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "engine/embed/encoder.h"
#include "router/route_prompt.h"

namespace hostler {

// Embeds prompt->text if `embedding_size` (QualityPredictor::embedding_size) is not 0;
// the prompt then views `storage`. Takes milliseconds; any thread. Errors:
// InvalidArgument when the encoder's embeddings have another size; DataLoss. Then the
// prompt has no embedding and the predictor goes by its words.
absl::Status EmbedPrompt(Encoder& encoder, int embedding_size, std::vector<float>* storage,
                         RoutePrompt* prompt);

}  // namespace hostler
