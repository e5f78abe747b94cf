#include "router/quality/prompt_embedding.h"

#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {

absl::Status EmbedPrompt(Encoder& encoder, int embedding_size, std::vector<float>* storage,
                         RoutePrompt* prompt) {
  prompt->embedding = {};
  if (embedding_size == 0) return absl::OkStatus();
  if (encoder.dimensions() != embedding_size) {
    return absl::InvalidArgumentError(
        fmt::format("the router was trained with embeddings of {} values, the encoder gives {}",
                    embedding_size, encoder.dimensions()));
  }
  storage->resize(static_cast<size_t>(embedding_size));
  HOSTLER_RETURN_IF_ERROR(encoder.Encode(prompt->text, *storage));
  prompt->embedding = *storage;
  return absl::OkStatus();
}

}  // namespace hostler
