// TokenDecoder: the bytes that a token stands for, from how the vocabulary
// spells it.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace hostler {

// Immutable; any thread. Without steps tokens stand for what they are.
struct TokenDecoder {
  using Step = std::function<std::string(std::string)>;

  std::vector<Step> steps;  // one after another
  bool for_added = false;   // added tokens are spelt so too
  TextEdges edges;

  // A token that the steps make absurdly long stands for itself.
  std::string Bytes(std::string_view token) const;
};

// Every byte is its character of byte_level.h.
TokenDecoder ByteLevelDecoder();

// U+2581 is a space, <0xNN> a byte.
TokenDecoder SentencePieceDecoder();

// The "decoder" of a tokenizer.json. Without one (null) tokens are joined by
// spaces. Errors: InvalidArgument; Unimplemented naming the type.
absl::StatusOr<TokenDecoder> ParseDecoder(const nlohmann::json& json);

}  // namespace hostler
