// Python's "..." % values and "...".format(values).
#pragma once

#include <string_view>

#include "engine/text/jinja/context.h"
#include "engine/text/jinja/value.h"

namespace hostler::jinja {

// `values`: a tuple, a dict for %(name)s, or the one value.
Value PercentFormat(Context& context, std::string_view format, const Value& values);

Value BraceFormat(Context& context, std::string_view format, const Arguments& arguments);

}  // namespace hostler::jinja
