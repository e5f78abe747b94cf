// Conversions between weight types (f32, f16, bf16, q8_0), as loading needs
// them. Pure functions; any thread may call them. Pointers need no alignment.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"

namespace hostler {

// n values to q8_0: per block of 32, d = max|x| / 127, q = round(x / d), halves
// away from zero. A block whose scale is not finite gets q = 0, so it reads
// back as NaN. REQUIRES: n % 32 == 0
void QuantizeQ8_0(const float* x, int64_t n, std::byte* out);

// n values of a weight type to f32, exactly. REQUIRES: whole blocks
void ConvertToF32(DType type, const std::byte* in, int64_t n, float* out);

// n values (one row or many whole rows) from one weight type to another, rounded
// to nearest. in and out do not overlap. REQUIRES: whole blocks of both types
void ConvertRows(DType from, DType to, const std::byte* in, int64_t n, std::byte* out);

}  // namespace hostler
