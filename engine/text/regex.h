// Regular expressions as tokenizer files use them (Oniguruma's syntax), run by
// PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace hostler {

struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};

// Immutable; any thread.
class Regex {
 public:
  // `pattern` is UTF-8. Errors: InvalidArgument with position and reason;
  // Unimplemented for Oniguruma's class arithmetic.
  static absl::StatusOr<std::unique_ptr<Regex>> Compile(const std::string& pattern);
  ~Regex();

  // All matches from left to right that are not empty. REQUIRES: well-formed
  // UTF-8. A pattern that exhausts its limits (of
  // steps, and of time where it is quadratic) finds nothing further.
  void FindAll(std::string_view text, std::vector<TextRange>* matches) const;

  // `text` with `content` for every match, until it has more than `most_bytes`.
  // Text that is not UTF-8 stays as it is.
  std::string ReplaceAll(std::string text, std::string_view content, size_t most_bytes) const;

 private:
  Regex() = default;

  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

// `text` as a pattern that matches just it.
std::string EscapeForRegex(std::string_view text);

}  // namespace hostler
