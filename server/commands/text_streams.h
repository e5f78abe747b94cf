// What `hostler tokenize` and `hostler chat-template` do with their input.
#pragma once

#include <istream>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace hostler {

struct TokenizeOptions {
  bool decode = false;  // ids → text
  bool json = false;    // a JSON list of ids, or a JSON string
  bool lines = false;   // one JSON value a line, in and out
  EncodeOptions encode = {};
};

// Errors: InvalidArgument naming the line.
absl::Status TokenizeStream(const Tokenizer& tokenizer, const TokenizeOptions& options,
                            std::istream& in, std::ostream& out);

// Renders the JSON object of the template's variables. Errors: InvalidArgument.
absl::StatusOr<std::string> RenderVariables(const ChatTemplate& chat_template,
                                            const std::string& variables);

// One object a line; each becomes a line {"text": …} or {"error": …}.
void RenderLines(const ChatTemplate& chat_template, std::istream& in, std::ostream& out);

// As one line of JSON; bytes that are not UTF-8 become U+FFFD.
std::string DumpLine(const nlohmann::ordered_json& json);

}  // namespace hostler
