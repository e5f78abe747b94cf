#include "router/quality/embedding_kind.h"

#include "engine/embed/encoder.h"
#include "fmt/format.h"

namespace hostler {

EmbeddingKind KindOf(const Encoder& encoder) {
  return {encoder.dimensions(), encoder.fingerprint(), encoder.max_tokens()};
}

std::string WhyNotEmbedded(const EmbeddingKind& wanted, const EmbeddingKind& have) {
  if (wanted.size == 0) return "";
  if (wanted.encoder.empty()) return "it was trained with embeddings of an unknown encoder";
  if (have.size == 0) return "it was trained with an encoder, and none is configured";
  if (wanted.encoder != have.encoder || wanted.size != have.size) {
    return fmt::format("it was trained with encoder {}, the configured one is {}", wanted.encoder,
                       have.encoder);
  }
  if (wanted.tokens != have.tokens) {
    return fmt::format(
        "its encoder cut prompts at {} tokens, the configured one does at {}: set "
        "encoder_tokens to {}",
        wanted.tokens, have.tokens, wanted.tokens);
  }
  return "";
}

}  // namespace hostler
