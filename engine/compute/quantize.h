// Conversions between weight types, as loading and packing need them. Pure
// functions; any thread may call them. Pointers need no alignment.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"

namespace hostler {

// Whether ConvertRows can write the type: f32, f16, bf16, q8_0, q4_0, mxfp4.
bool CanConvertTo(DType to);

// n values to blocks of 32. A block that no finite scale fits, as one with NaN or
// infinity in it, reads back as NaN. REQUIRES: n % 32 == 0
//
// q8_0: d = max|x| / 127, q = round(x / d), halves away from zero.
void QuantizeQ8_0(const float* x, int64_t n, std::byte* out);
// q4_0: d = -m / 8 where m is the value of largest magnitude, q = round(x / d) + 8.
void QuantizeQ4_0(const float* x, int64_t n, std::byte* out);
// mxfp4: scale 2^(floor(log2 max|x|) - 2), elements to the nearest E2M1 value,
// ties to even, larger ones to 6 (OCP Microscaling Formats 1.0, 6.3).
void QuantizeMxfp4(const float* x, int64_t n, std::byte* out);

// n values of a weight type to f32. Exact for f16, bf16, f8, q8_0, q4_0, q5_0 and
// mxfp4; otherwise rounded as the format's scales combine (dequantize.h).
// REQUIRES: IsWeightType(type), whole blocks
void ConvertToF32(DType type, const std::byte* in, int64_t n, float* out);

// n values (one row or many whole rows) from one weight type to another, rounded
// to nearest. in and out do not overlap. REQUIRES: whole blocks of both types;
// from == to or CanConvertTo(to)
void ConvertRows(DType from, DType to, const std::byte* in, int64_t n, std::byte* out);

}  // namespace hostler
