// SentencePiece's models (Kudo and Richardson 2018): byte-pair encoding and
// unigram (Kudo 2018), and its normalization. Spaces are U+2581 in all of them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/normalizer.h"
#include "engine/text/vocabulary.h"
#include "engine/text/word_model.h"

namespace hostler {

struct ScoredToken {
  int32_t id = 0;
  double score = 0;  // finite
};

// Writes characters that no token covers: as byte tokens, or as one unknown
// token for a run of them.
struct UnknownTokens {
  std::array<int32_t, 256> bytes{};  // ids
  bool has_bytes = false;
  std::optional<int32_t> unk;

  // `*in_run`: what is written just before is such a token.
  void Append(std::string_view character, bool* in_run, std::vector<int32_t>* ids) const;
};

// Longer tokens are refused: reading them would take quadratic time, and
// encoding is linear only up to the longest token.
inline constexpr size_t kMaxScoredTokenBytes = 512;

// `tokens`: those that text can become; well-formed UTF-8, none empty, no text
// twice. `vocabulary`, which has them, must outlive the result.
std::unique_ptr<WordModel> NewSentencePieceBpe(const Vocabulary* vocabulary,
                                               const std::vector<ScoredToken>& tokens,
                                               UnknownTokens unknown);
std::unique_ptr<WordModel> NewUnigram(const Vocabulary* vocabulary,
                                      const std::vector<ScoredToken>& tokens,
                                      UnknownTokens unknown);

// Replaces by the rules in `charsmap` (empty: none), then strips and joins
// spaces if told so, then turns them into U+2581. Errors: InvalidArgument for a
// malformed map.
absl::StatusOr<std::unique_ptr<Normalizer>> NewSentencePieceNormalizer(
    std::string charsmap, bool remove_extra_whitespaces);

}  // namespace hostler
