#define HOSTLER_SIMD_AVX2
#define HOSTLER_KERNEL_TABLE kAvx2Kernels
#include "engine/compute/cpu/kernels.inc"
