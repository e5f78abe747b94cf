// What device code sees: its coordinates, barriers, shuffles and intrinsics.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// The blocks that a thread of the host runs follow one another.
#define __shared__ static thread_local

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float4 {
  float x, y, z, w;
};

namespace hostler::cuda_emulation {

inline constexpr int kWarp = 32;

struct ThisThread {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
};
extern constinit thread_local ThisThread* this_thread;

std::byte* SharedMemory();  // the launch's dynamic shared memory
void BlockBarrier();
void WarpBarrier();
// Where the calling thread's warp exchanges 8 bytes a lane; another place after each
// barrier.
uint64_t* ExchangePlace();

template <typename T>
T Shuffle(T value, unsigned from) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t* place = ExchangePlace();
  std::memcpy(&place[this_thread->thread.x % kWarp], &value, sizeof value);
  WarpBarrier();
  std::memcpy(&value, &place[from % kWarp], sizeof value);
  return value;
}

}  // namespace hostler::cuda_emulation

#define threadIdx (::hostler::cuda_emulation::this_thread->thread)
#define blockIdx (::hostler::cuda_emulation::this_thread->block)
#define blockDim (::hostler::cuda_emulation::this_thread->block_dim)
#define gridDim (::hostler::cuda_emulation::this_thread->grid_dim)

inline void __syncthreads() { hostler::cuda_emulation::BlockBarrier(); }

// Of a whole warp only.
inline void __syncwarp() { hostler::cuda_emulation::WarpBarrier(); }
template <typename T>
T __shfl_sync(unsigned mask, T value, int from) {
  if (mask != 0xffffffffu) std::abort();
  return hostler::cuda_emulation::Shuffle(value, static_cast<unsigned>(from));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x) ^ lanes);
}

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
