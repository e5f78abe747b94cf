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
struct alignas(16) uint4 {
  unsigned x, y, z, w;
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
// The same, of kFragmentWords words a lane, for what a warp multiplies together.
inline constexpr int kFragmentWords = 6;
uint32_t* FragmentPlace();

template <typename T>
T Shuffle(T value, unsigned from) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t* place = ExchangePlace();
  std::memcpy(&place[this_thread->thread.x % kWarp], &value, sizeof value);
  WarpBarrier();
  std::memcpy(&value, &place[from % kWarp], sizeof value);
  return value;
}

inline int Dp4a(uint32_t a, uint32_t b, int c) {
  for (int i = 0; i < 32; i += 8) c += int8_t(a >> i & 0xff) * int8_t(b >> i & 0xff);
  return c;
}

// mma.sync.aligned.m16n8k<k>.row.col.s32.s8.s8.s32 for k 16 and 32, whose fragments lie as
// the PTX manual says (9.7.14, "Matrix Fragments for mma.m16n8k16 with integer type", and
// k32): with g = lane / 4 and t = lane % 4, a's words are rows g, g + 8, g, g + 8 and
// columns 4 t (+ 16 for the last two), b's are rows 4 t (+ 16) of column g, and c and d
// are (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
template <int k>
void MmaS8(int (&d)[4], const uint32_t* a, const uint32_t* b, const int (&c)[4]) {
  constexpr int kA = k / 8, kB = k / 16, kWords = kA + kB;
  static_assert(kWords <= kFragmentWords);
  uint32_t* place = FragmentPlace();
  const int lane = static_cast<int>(this_thread->thread.x) % kWarp;
  for (int i = 0; i < kA; ++i) place[lane * kFragmentWords + i] = a[i];
  for (int i = 0; i < kB; ++i) place[lane * kFragmentWords + kA + i] = b[i];
  WarpBarrier();
  for (int i = 0; i < 4; ++i) {
    const int a_lane = lane / 4 * 4, b_lane = (2 * (lane % 4) + i % 2) * 4;
    int sum = c[i];
    for (int word = 0; word < k / 4; ++word) {
      const uint32_t* from_a = place + (a_lane + word % 4) * kFragmentWords;
      const uint32_t* from_b = place + (b_lane + word % 4) * kFragmentWords;
      sum = Dp4a(from_a[i / 2 + word / 4 * 2], from_b[kA + word / 4], sum);
    }
    d[i] = sum;
  }
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

inline int __dp4a(int a, int b, int c) {
  return hostler::cuda_emulation::Dp4a(static_cast<uint32_t>(a), static_cast<uint32_t>(b), c);
}
// Selector s of four bits names byte s of the eight in a and b; its top bit is not used.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selectors) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<unsigned>(bytes >> (selectors >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  }
  return out;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned bits) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (bits & 31));
}
// To nearest even; NaN becomes 0, as the device has it.
inline int __float2int_rn(float value) {
  if (std::isnan(value)) return 0;
  if (value >= 0x1p31f) return 0x7fffffff;
  if (value < -0x1p31f) return static_cast<int>(0x80000000u);
  return static_cast<int>(std::nearbyintf(value));
}

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
