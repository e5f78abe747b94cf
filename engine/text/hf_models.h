// The "model" of a tokenizer.json: BPE, Unigram, WordPiece.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_set>

#include "absl/status/statusor.h"
#include "engine/text/vocabulary.h"
#include "engine/text/word_model.h"
#include "nlohmann/json.hpp"

namespace hostler {

// The model's own tokens. Errors: InvalidArgument.
absl::Status ReadHfVocabulary(const nlohmann::json& model, Vocabulary* vocabulary);

// `vocabulary` must outlive the result. No text becomes one of the `special`
// tokens by the look of it. Errors: InvalidArgument; Unimplemented naming the
// type.
absl::StatusOr<std::unique_ptr<WordModel>> ReadHfModel(const nlohmann::json& model,
                                                       const Vocabulary& vocabulary,
                                                       const std::unordered_set<int32_t>& special);

}  // namespace hostler
