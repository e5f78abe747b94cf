// Reading the arguments of methods, filters and functions. Each fails when an
// argument has the wrong type.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/text/jinja/context.h"
#include "engine/text/jinja/value.h"

namespace hostler::jinja {

std::string TextArgument(Context& context, const Arguments& arguments, size_t position,
                         std::string_view name, std::string_view otherwise);

// Nullopt for none, and where it is left out.
std::optional<std::string> OptionalText(Context& context, const Arguments& arguments,
                                        size_t position, std::string_view name);

// `otherwise` for none, too.
int64_t NumberArgument(Context& context, const Arguments& arguments, size_t position,
                       std::string_view name, int64_t otherwise);

bool BoolArgument(const Arguments& arguments, size_t position, std::string_view name,
                  bool otherwise);

// False, with an error, when there are fewer positional arguments.
bool Require(Context& context, const Arguments& arguments, size_t count);

}  // namespace hostler::jinja
