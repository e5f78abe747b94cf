// Added tokens: texts that are one token wherever they stand, found before
// anything is split.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hostler {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;   // looked for in the normalized text
  bool single_word = false;  // only where no letter or digit touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // … and after it
};

// A stretch of text: a token's (id >= 0) or what lies between (id = -1).
struct Segment {
  int32_t id = -1;
  std::string_view text;
};

// Finds the longest token at the leftmost place, and so on. Immutable once
// filled; then any thread.
class AddedTokenMatcher {
 public:
  // `content` is what to look for (the token's own, or as normalized).
  // Empty content is never found.
  void Add(const AddedToken& token, std::string_view content);

  // Cuts `text` (well-formed UTF-8) into segments that are not empty.
  void Split(std::string_view text, std::vector<Segment>* segments) const;

 private:
  struct Match {
    size_t end = 0;  // 0: none
    int token = -1;  // of tokens_
  };

  Match Longest(std::string_view text, size_t pos) const;

  std::vector<AddedToken> tokens_;
  // A trie: (node << 8 | byte) → node; node 0 is the root.
  std::unordered_map<uint64_t, uint32_t> edges_;
  std::vector<int> token_at_{-1};   // per node: which of tokens_ ends there
  std::array<bool, 256> starts_{};  // bytes that some token starts with
};

}  // namespace hostler
