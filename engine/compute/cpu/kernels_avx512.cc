#define HOSTLER_SIMD_AVX512
#define HOSTLER_KERNEL_TABLE kAvx512Kernels
#include "engine/compute/cpu/kernels.inc"
