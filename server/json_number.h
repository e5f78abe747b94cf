// Numbers that may not be known, as JSON.
#pragma once

#include <cmath>

#include "engine/base/json.h"

namespace hostler {

// Null for infinities and NaN.
inline Json NumberOrNull(double value) { return std::isfinite(value) ? Json(value) : Json(); }

}  // namespace hostler
