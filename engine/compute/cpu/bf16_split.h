// Products of bf16 weights with inputs that are sums of two bf16.
//
// x = high + low, both rounded to nearest, keeps x to 2^-17; what is not finite counts as a
// NaN. The products of 32 columns are added, in f32, to the sum of those before: of the high
// parts first, then of the low ones. Rows of weights are used as they are stored.
#pragma once

#include "engine/compute/cpu/units.h"

namespace hostler {

extern const UnitKernels kAmxBf16SplitKernels;
// Of AVX-512 BF16: pairs of columns are added to sixteen sums, and these to each other at the end.
extern const UnitKernels kDotBf16SplitKernels;

}  // namespace hostler
