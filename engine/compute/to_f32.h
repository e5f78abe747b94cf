// The function that turns stored weights of a type into f32. Kernels include
// this: no inline function belongs here (see cpu/kernels.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"

namespace hostler {

// Turns n values into f32. Portable: the results are the same on every CPU.
// REQUIRES: whole blocks
using ToF32Function = void (*)(const std::byte* in, int64_t n, float* out);

// REQUIRES: IsWeightType(type)
ToF32Function GetToF32(DType type);

}  // namespace hostler
