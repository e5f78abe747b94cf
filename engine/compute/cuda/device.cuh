// What kernels share: a warp's sums, shared memory, loads of any alignment. Device
// code is compiled without contraction: a multiply-add is fused where it says Fma.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace hostler {

inline constexpr int kWarpLanes = 32;

__device__ inline float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// The launch's dynamic shared memory.
__device__ inline float* SharedFloats() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) float shared_floats[];
  return shared_floats;
#else
  return reinterpret_cast<float*>(cuda_emulation::SharedMemory());
#endif
}

__device__ inline float Infinity() { return __int_as_float(0x7f800000); }

// Over a warp; every lane gets the same bits.
__device__ inline float WarpSum(float value) {
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, lanes);
  }
  return value;
}
__device__ inline float WarpMax(float value) {
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lanes));
  }
  return value;
}

// Over a block of whole warps; `warps` has room for a float a warp.
__device__ inline float BlockSum(float value, float* warps) {
  value = WarpSum(value);
  const int count = static_cast<int>(blockDim.x) / kWarpLanes;
  if (count == 1) return value;
  __syncthreads();
  if (threadIdx.x % kWarpLanes == 0) warps[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  float sum = warps[0];
  for (int i = 1; i < count; ++i) sum += warps[i];
  return sum;
}

__device__ inline uint16_t LoadU16(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] | p[1] << 8);
}
__device__ inline float LoadF32(const uint8_t* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(float) == 0) {
    return *reinterpret_cast<const float*>(p);
  }
  return __uint_as_float(LoadU16(p) | static_cast<unsigned>(LoadU16(p + 2)) << 16);
}
__device__ inline float HalfToFloat(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ inline float Bf16BitsToFloat(uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

// Rounded to nearest even; NaN stays one, with the bits that F32ToF16 (half.h) gives it.
__device__ inline uint16_t FloatToHalfBits(float value) {
  const unsigned bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return static_cast<uint16_t>((bits >> 16 & 0x8000u) | 0x7e00u | (bits >> 13 & 0x1ffu));
  }
  return __half_as_ushort(__float2half_rn(value));
}
__device__ inline uint16_t FloatToBf16Bits(float value) {
  const unsigned bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

__device__ inline float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float SiluOf(float x) { return x / (1.0f + expf(-x)); }
__device__ inline float Capped(float x, float cap) { return cap * tanhf(x / cap); }

}  // namespace hostler
