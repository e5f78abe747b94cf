// What a warp multiplies on tensor cores, and dot products of bytes.
#pragma once

#include "engine/compute/cuda/device.cuh"

namespace hostler {

__device__ inline int Dp4a(uint32_t a, uint32_t b, int sum) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), sum);
}

// d = a · b + c: a [16, k] and b [k, 8] of signed bytes, c and d [16, 8] of int32, each
// spread over the lanes of the warp as PTX has it. With g = lane / 4 and t = lane % 4:
// a's words are rows g, g + 8, g, g + 8 and columns 4 t, ..., + 3, 16 higher for the last
// two; b's are rows 4 t, ..., + 3, and 16 higher, of column g; c and d are (g, 2 t),
// (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1). For k 16 there is the first half of a's and
// b's. All lanes call it together.
template <int k>
__device__ __forceinline__ void MmaS8(int (&d)[4], const uint32_t* a, const uint32_t* b,
                                      const int (&c)[4]) {
  static_assert(k == 16 || k == 32);
#if defined(__CUDACC__)
  if constexpr (k == 32) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
          "r"(c[2]), "r"(c[3]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
  }
#else
  cuda_emulation::MmaS8<k>(d, a, b, c);
#endif
}

}  // namespace hostler
