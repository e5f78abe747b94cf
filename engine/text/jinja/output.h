// Values as text: Python's str and repr, and JSON.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "engine/text/jinja/context.h"
#include "engine/text/jinja/value.h"
#include "nlohmann/json.hpp"

namespace hostler::jinja {

// Python's str(value) and repr(value).
std::string Str(const Value& value);
std::string Repr(const Value& value);

// Python's repr of a float: the shortest digits that read back the same.
std::string FloatRepr(double value);

// How json.dumps writes.
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // of one level; unset: all on one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// Fails for values that JSON has no word for.
std::string ToJson(Context& context, const Value& value, const JsonStyle& style);

// Fails when it nests too deep.
Value FromJson(Context& context, const nlohmann::ordered_json& json);

}  // namespace hostler::jinja
