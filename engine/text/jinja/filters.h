// Jinja's filters ("value | name") and tests ("value is name").
#pragma once

#include <string_view>

#include "engine/text/jinja/context.h"
#include "engine/text/jinja/value.h"

namespace hostler::jinja {

// Fails for a filter that does not exist.
Value ApplyFilter(Context& context, std::string_view name, const Value& input,
                  const Arguments& arguments);

bool HasFilter(std::string_view name);

// Fails for a test that does not exist.
bool ApplyTest(Context& context, std::string_view name, const Value& input,
               const Arguments& arguments);

bool HasTest(std::string_view name);

using Filter = Value (*)(Context&, const Value& input, const Arguments&);

// The filter of that name among those on text and numbers, or on lists and
// dicts; null if it is not there.
Filter FindScalarFilter(std::string_view name);
Filter FindSequenceFilter(std::string_view name);

}  // namespace hostler::jinja
