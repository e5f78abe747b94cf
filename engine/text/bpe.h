// Byte-pair encoding: a word's characters, merged pair by pair in the order in
// which the merges were learnt (Sennrich et al. 2016).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/vocabulary.h"
#include "engine/text/word_model.h"

namespace hostler {

struct BpeOptions {
  // Stands for characters that are no token; without it they are dropped.
  std::optional<std::string> unk_token;
  bool fuse_unk = false;                  // one unk for a run of such characters
  bool byte_fallback = false;             // rather the tokens <0x00>…<0xFF> of its bytes
  bool ignore_merges = false;             // a word that is a token is that token
  std::string continuing_subword_prefix;  // of every character but the first
  std::string end_of_word_suffix;         // of the last character
};

// `merges` by falling priority. `vocabulary` must outlive the result. Errors:
// InvalidArgument naming the merge whose parts or whole are no tokens, or the
// unknown token that is none.
absl::StatusOr<std::unique_ptr<WordModel>> NewBpe(
    const Vocabulary* vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
    BpeOptions options);

}  // namespace hostler
