// WordPiece: a word is cut into the longest tokens from left to right
// (Devlin et al. 2018).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "engine/text/vocabulary.h"
#include "engine/text/word_model.h"

namespace hostler {

// Tokens that begin a word are spelt with U+2581 in front, those that continue
// one as they are. A word that cannot be cut so, or has more than 100
// characters, is `unk` (nothing, without one). `vocabulary` must outlive the
// result.
std::unique_ptr<WordModel> NewWordPiece(const Vocabulary* vocabulary, std::optional<int32_t> unk);

}  // namespace hostler
