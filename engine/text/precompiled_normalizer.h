// The "Precompiled" normalizer of tokenizer.json: SentencePiece's map as Hugging
// Face's tokenizers apply it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/text/normalizer.h"

namespace hostler {

// `base64` is the map. Errors: InvalidArgument.
absl::StatusOr<std::unique_ptr<Normalizer>> NewPrecompiledNormalizer(const std::string& base64);

// Drops control characters; white space of all kinds becomes spaces ("Nmt").
std::unique_ptr<Normalizer> NewNmtNormalizer();

}  // namespace hostler
