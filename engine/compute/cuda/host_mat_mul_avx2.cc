#include <immintrin.h>

namespace {

// Values 8 l + i of a block to 32 i + l: four squares of 8 x 8.
inline void TransposeGroups(const float* in, float* out) {
  for (int square = 0; square < 4; ++square, in += 64, out += 8) {
    __m256 a[8], b[8];
    for (int l = 0; l < 8; ++l) a[l] = _mm256_loadu_ps(in + 8 * l);
    for (int l = 0; l < 8; l += 2) {
      b[l] = _mm256_unpacklo_ps(a[l], a[l + 1]);
      b[l + 1] = _mm256_unpackhi_ps(a[l], a[l + 1]);
    }
    for (int l = 0; l < 8; l += 4) {
      a[l] = _mm256_shuffle_ps(b[l], b[l + 2], 0x44);
      a[l + 1] = _mm256_shuffle_ps(b[l], b[l + 2], 0xee);
      a[l + 2] = _mm256_shuffle_ps(b[l + 1], b[l + 3], 0x44);
      a[l + 3] = _mm256_shuffle_ps(b[l + 1], b[l + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      _mm256_storeu_ps(out + 32 * i, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
      _mm256_storeu_ps(out + 32 * (i + 4), _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
  }
}

}  // namespace

#define HOSTLER_SUM_ROW SumHostRowAvx2
#include "engine/compute/cuda/host_mat_mul.inc"
