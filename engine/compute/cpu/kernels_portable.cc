#define HOSTLER_KERNEL_TABLE kPortableKernels
#include "engine/compute/cpu/kernels.inc"
