// Template source → tokens, with Jinja's white space rules already applied
// (trim_blocks and lstrip_blocks on, as Hugging Face sets them).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace hostler::jinja {

enum class TokenType : uint8_t {
  kData,           // text between the tags
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kName,
  kString,  // its value, unescaped
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  std::string text;
  int line = 0;
  int64_t integer = 0;
  double real = 0;
};

// The last token is kEnd. Errors: InvalidArgument with line and reason.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace hostler::jinja
