// EmbeddingKind: what a sentence embedding is of.
#pragma once

#include <string>

namespace hostler {

class Encoder;  // engine/embed/encoder.h

// Tokens of a prompt that are looked at where nobody says otherwise.
inline constexpr int kDefaultEncoderTokens = 64;

// Embeddings of different kinds are not to be compared.
struct EmbeddingKind {
  int size = 0;         // values; 0: none
  std::string encoder;  // its fingerprint; "": not known
  int tokens = 0;       // of a text at most; what follows is cut off
};

EmbeddingKind KindOf(const Encoder& encoder);

// Why what was trained with `wanted` cannot be given those of `have`; "": it can, or wants
// none.
std::string WhyNotEmbedded(const EmbeddingKind& wanted, const EmbeddingKind& have);

}  // namespace hostler
