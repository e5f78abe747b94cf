// The methods of Python's str, dict, list and numbers.
#pragma once

#include <optional>
#include <string_view>

#include "engine/text/jinja/context.h"
#include "engine/text/jinja/value.h"

namespace hostler::jinja {

// The attribute `name` of a value of a builtin type: a method bound to it.
// One that would change the value is there but undefined: templates may not.
// Nullopt when the type has no such attribute.
std::optional<Value> FindMethod(const Value& object, std::string_view name);

}  // namespace hostler::jinja
