// What a sentence encoder's directory says of it, checked.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace hostler {

// BERT (Devlin et al. 2018) with absolute positions and the exact gelu.
struct EncoderConfig {
  int width = 0;
  int layers = 0;
  int heads = 0;
  int ffn = 0;
  int vocabulary = 0;
  int positions = 0;    // rows of the table of positions
  int token_types = 0;  // rows of the table of segments
  int max_tokens = 0;   // of a text, [CLS] and [SEP] counted; longer ones are cut
  float epsilon = 0;    // of the layer norms

  int head_width() const { return width / heads; }
};

// Reads config.json and, where they are there, what sentence-transformers adds:
// modules.json, sentence_bert_config.json and 1_Pooling/config.json. Errors: NotFound;
// InvalidArgument naming file and key; Unimplemented for another architecture or
// another pooling than the mean over all tokens.
absl::StatusOr<EncoderConfig> ReadEncoderConfig(const std::string& directory);

}  // namespace hostler
