// Half precision in device code.
#pragma once

#include "cuda_runtime.h"
#include "engine/compute/half.h"

struct __half {
  unsigned short bits;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline float __half2float(__half value) { return hostler::F16ToF32(value.bits); }
inline __half __float2half_rn(float value) { return {hostler::F32ToF16(value)}; }
