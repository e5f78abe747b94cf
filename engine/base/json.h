// JSON as the APIs read and write it: bounded parsing of what clients send,
// and text building that cannot fail.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace hostler {

using Json = nlohmann::ordered_json;

// Parses one JSON text. Errors: InvalidArgument for what is not JSON or not
// UTF-8, for nesting deeper than 64, and for a text whose tree would need more
// than 128 MiB. A key that stands twice in an object is kept twice.
absl::StatusOr<Json> ParseJson(std::string_view text);

// The value of `key`; null when `object` lacks it or is none.
const Json* FindKey(const Json& object, std::string_view key);

// Appends `text` with quotes. Bytes that are not UTF-8 become U+FFFD.
void AppendJsonString(std::string_view text, std::string* out);

// Appends a float as a JSON number; infinities and NaN become -9999 (log 0).
void AppendJsonLogprob(float value, std::string* out);

}  // namespace hostler
