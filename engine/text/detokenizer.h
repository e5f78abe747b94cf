// Turns a growing list of tokens into text, never half a UTF-8 character.
#pragma once

#include <cstdint>
#include <string>

#include "engine/text/tokenizer.h"

namespace hostler {

// One per sequence; not thread-safe.
class IncrementalDetokenizer {
 public:
  // `tokenizer` must outlive this.
  IncrementalDetokenizer(const Tokenizer* tokenizer, bool skip_special);

  // Adds a token; returns the text that became complete with it (maybe none).
  // Bytes that can never become UTF-8 come out as U+FFFD.
  std::string Add(int32_t id);

  // What is still held back, with U+FFFD for an unfinished character.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace hostler
