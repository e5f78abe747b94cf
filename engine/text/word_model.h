// WordModel: one word → token ids. The heart of a tokenizer.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace hostler {

// Immutable; any thread.
class WordModel {
 public:
  virtual ~WordModel() = default;

  // Appends the word's tokens. Linear (or nearly) in its length: a word can be
  // a whole document. REQUIRES: well-formed UTF-8.
  virtual void Encode(std::string_view word, std::vector<int32_t>* ids) const = 0;
};

}  // namespace hostler
