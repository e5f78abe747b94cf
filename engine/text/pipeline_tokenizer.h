// PipelineTokenizer: a tokenizer put together from its parts. Every file
// format builds one of these.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/text/added_tokens.h"
#include "engine/text/decoder.h"
#include "engine/text/normalizer.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"
#include "engine/text/word_model.h"

namespace hostler {

struct TokenizerParts {
  // The model's own tokens: what it may make of a word.
  std::unique_ptr<Vocabulary> vocabulary;
  // The added tokens, and those of them that `vocabulary` lacks.
  std::vector<AddedToken> added;
  Vocabulary extra;
  std::unique_ptr<Normalizer> normalizer;       // null: none
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // null: none
  std::unique_ptr<WordModel> model;             // may refer to `vocabulary`
  TokenDecoder decoder;
  // Goes before every stretch of text between special tokens, once normalized
  // (only with a normalizer).
  std::string text_prefix;
  // What add_special puts around a text.
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
};

std::unique_ptr<Tokenizer> NewPipelineTokenizer(TokenizerParts parts);

}  // namespace hostler
