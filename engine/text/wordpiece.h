// WordPiece: a word is cut into the longest tokens from left to right
// (Devlin et al. 2018).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/text/vocabulary.h"
#include "engine/text/word_model.h"

namespace hostler {

// How a vocabulary spells where in a word a token belongs.
struct WordPieceOptions {
  std::string first_prefix;       // of tokens that begin a word, and of no others
  std::string continuing_prefix;  // of those that continue one
  size_t max_characters = 100;    // longer words are unknown
  // Stands for words that cannot be cut; without it they are dropped.
  std::optional<int32_t> unk;
};

// Errors: InvalidArgument for a token of more than kMaxScoredTokenBytes
// (sentencepiece.h).
absl::StatusOr<std::unique_ptr<WordModel>> NewWordPiece(const Vocabulary& vocabulary,
                                                        WordPieceOptions options);

}  // namespace hostler
