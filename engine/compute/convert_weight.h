// Weights from one type and order of rows to another.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/compute/backend.h"

namespace hostler {

// Writes rows [first, first + to.rows) of `from` to `out` (to.bytes()) as `to` has them:
// of its type, interleaved or as stored; its data is not looked at. A matrix may be
// converted in parts that begin with a panel. REQUIRES: to.dtype is from.dtype or
// CanConvertTo(to.dtype); to.cols == from.cols; no overlap
void ConvertWeight(const Weight& from, int64_t first, const Weight& to, std::byte* out);

}  // namespace hostler
