// The functions that every template can call.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/context.h"
#include "engine/text/jinja/value.h"

namespace hostler::jinja {

// range, dict, namespace, cycler, joiner, raise_exception, strftime_now. `now`
// is an ISO time ("2025-03-14T15:09:26"); without it strftime_now reads the
// clock.
std::vector<std::pair<std::string, Value>> Globals(const std::optional<std::string>& now);

}  // namespace hostler::jinja
