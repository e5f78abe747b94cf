// What the tokenizer targets do with a tokenizer once it is loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

namespace hostler {

inline constexpr size_t kRepeatedBytes = 100'000;

// Encodes and decodes texts of many kinds, and `extra`: after a '*' many times
// over, so that what takes quadratic time runs into the time limit. Traps when
// an id is out of range.
inline void ExerciseTokenizer(const Tokenizer& tokenizer, const std::string& extra) {
  static const std::vector<std::string> texts = {
      "",
      "Hello, world! It's 1234 o'clock.\r\n\tYes  <|end|> <s>[UNK]</s>",
      " \xC3\xA9 e\xCC\x81 \xE4\xB8\xAD\xE6\x96\x87 \xF0\x9F\x98\x80 "
      "\xEF\xBF\xBD\xEF\xAC\x81\xC2\xA0",
      "bad \xC3 \xF0\x9F bytes \xFF\x80",
      std::string(300, 'a') + std::string(300, ' ') + std::string("\0\x01", 2),
  };
  const auto exercise = [&tokenizer](const std::string& text) {
    for (const EncodeOptions& options :
         {EncodeOptions{}, EncodeOptions{.parse_special = true, .add_special = true}}) {
      const std::vector<int32_t> ids = tokenizer.Encode(text, options);
      for (const int32_t id : ids) {
        if (id < 0 || id >= tokenizer.vocab_size()) __builtin_trap();
      }
      (void)tokenizer.Decode(ids, options.parse_special);
    }
  };
  for (const std::string& text : texts) exercise(text);
  std::string last = extra;
  if (extra.size() > 1 && extra[0] == '*') {
    last.clear();
    while (last.size() < kRepeatedBytes) last.append(extra, 1);
  }
  exercise(last);
  std::vector<int32_t> all;
  for (int32_t id = -1; id <= tokenizer.vocab_size() && id < 300; ++id) all.push_back(id);
  (void)tokenizer.Decode(all, false);
}

}  // namespace hostler
