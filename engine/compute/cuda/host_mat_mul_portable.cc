namespace {

// Values 8 l + i of a block to 32 i + l.
inline void TransposeGroups(const float* in, float* out) {
  for (int i = 0; i < 8; ++i) {
    for (int l = 0; l < 32; ++l) out[i * 32 + l] = in[l * 8 + i];
  }
}

}  // namespace

#define HOSTLER_SUM_ROW SumHostRowPortable
#include "engine/compute/cuda/host_mat_mul.inc"
