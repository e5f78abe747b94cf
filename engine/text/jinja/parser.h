// Tokens → syntax tree.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/ast.h"

namespace hostler::jinja {

// `source` is well-formed UTF-8. Errors: InvalidArgument with line and reason.
absl::StatusOr<Body> Parse(std::string_view source);

}  // namespace hostler::jinja
