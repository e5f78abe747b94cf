// Pre-tokenizers by the names that GGUF files give them (tokenizer.ggml.pre).
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/text/pretokenizer.h"

namespace hostler {

struct NamedPreTokenizer {
  // Cuts text into words and spells their bytes (byte_level.h).
  std::unique_ptr<PreTokenizer> steps;
  bool ignore_merges = false;  // a word that is a token is that token
  bool add_bos = false;        // unless the file says otherwise
};

// Errors: Unimplemented naming a pre-tokenizer we do not know.
absl::StatusOr<NamedPreTokenizer> FindPreTokenizer(const std::string& name);

}  // namespace hostler
