// Functions of activations that give the same bits on the device and on the host: made
// of single operations that both round alike, where those of the maths libraries differ
// in the last place. Files that use it are compiled without contraction.
#pragma once

#include <cmath>

#include "engine/compute/backend.h"

#if defined(__CUDACC__)
#define HOSTLER_BOTH __host__ __device__ inline
#else
#define HOSTLER_BOTH inline
#endif

namespace hostler {

HOSTLER_BOTH float ExactFma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// 2^n for n within [-126, 127].
HOSTLER_BOTH float ExactPowerOfTwo(int n) {
#if defined(__CUDA_ARCH__)
  return __int_as_float((n + 127) << 23);
#else
  return __builtin_bit_cast(float, (n + 127) << 23);
#endif
}

// e^x within 1 unit in the last place, 2 where it is below the least normal number:
// x = n ln 2 + r, |r| <= ln 2 / 2, and Taylor's polynomial of r.
HOSTLER_BOTH float ExactExp(float x) {
  if (x != x) return x;
  if (x > 89.0f) return 2.0f * ExactPowerOfTwo(127) * ExactPowerOfTwo(127);  // infinity
  if (x < -104.0f) return 0.0f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: its last place is a one
  const float n = ExactFma(x, 1.44269504f, kRound) - kRound;
  float r = ExactFma(n, -0.693359375f, x);
  r = ExactFma(n, 2.12194440e-4f, r);
  float p = 1.0f / 5040;
  p = ExactFma(p, r, 1.0f / 720);
  p = ExactFma(p, r, 1.0f / 120);
  p = ExactFma(p, r, 1.0f / 24);
  p = ExactFma(p, r, 1.0f / 6);
  p = ExactFma(p, r, 0.5f);
  p = ExactFma(p, r, 1.0f);
  p = ExactFma(p, r, 1.0f);
  // In two steps: 2^n may be no normal number.
  const int whole = static_cast<int>(n), half = whole / 2;
  return p * ExactPowerOfTwo(half) * ExactPowerOfTwo(whole - half);
}

HOSTLER_BOTH float ExactSigmoid(float x) { return 1.0f / (1.0f + ExactExp(-x)); }

// The product of gate and up; see Activation.
HOSTLER_BOTH float ExactActivation(Activation kind, float limit, float g, float u) {
  if (kind == Activation::kSilu) return g / (1.0f + ExactExp(-g)) * u;
  if (kind == Activation::kGeluTanh) {
    // (1 + tanh(s)) / 2 is sigmoid(2 s); 1.5957691 is 2 sqrt(2 / pi).
    const float slope = g * ExactFma(1.5957691216f * 0.044715f, g * g, 1.5957691216f);
    return g * ExactSigmoid(slope) * u;
  }
  const float below = g > limit ? limit : g;
  const float within = u < -limit ? -limit : u > limit ? limit : u;
  return below * ExactSigmoid(1.702f * below) * (within + 1.0f);
}

}  // namespace hostler
