// CharsMap: SentencePiece's "precompiled_charsmap", which says what characters
// and sequences of them become.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace hostler {

// Immutable; any thread.
class CharsMap {
 public:
  // Nothing changes when `bytes` is empty. Errors: InvalidArgument.
  static absl::StatusOr<CharsMap> Parse(const std::string& bytes);

  // What the longest key at `pos`, or else the character there, becomes; moves
  // *pos behind it. May not be UTF-8. Valid as long as *this and the text.
  std::string_view Next(std::string_view text, size_t* pos) const;

  // What the shortest key that `text` begins with becomes.
  std::optional<std::string_view> First(std::string_view text) const;

 private:
  struct Match {
    size_t length = 0;  // 0: none
    uint32_t value = 0;
  };

  Match Find(std::string_view text, bool shortest) const;
  std::optional<std::string_view> Replacement(const Match& match) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace hostler
