// Products of quantised weights in integers.
//
// Inputs are cut into groups of 128 columns x = scale * q. q has up to 16 bits, as many
// as the weight type leaves room for: q = (high << shift) + low, two signed bytes, and the
// weights' products with `high` are summed shifted. For VNNI alone q is one byte with
// weights of four to six bits. The products of a block of 32 columns (16 for types with a scale for
// every 16) are summed exactly; then for a group
//
//   part = fma(float(Σ w q), weight scale, part) for its blocks in order
//   sum = fma(part, input scale, sum)            for groups in order
//
// where types with minima also have part = fma(-min, float(Σ q), part) after each block.
// All kernels of a table do just that, for one token or many, so all give the same bits.
// As in kernels.h, nothing inline from other headers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/compute/cpu/units.h"

namespace hostler {

inline constexpr int kInputBlock = 32;
inline constexpr int kInputGroup = 128;

// For weights in whole blocks.
extern const UnitKernels kVnniIntegerKernels;      // inputs of one byte
extern const UnitKernels kVnniWideIntegerKernels;  // of two, for Q8_0 and MXFP4
extern const UnitKernels kAmxIntegerKernels;

}  // namespace hostler
