// The inner loops of the CPU backend, one table per instruction set. Every
// result is summed in an order that depends only on the shapes of that result's
// own inputs. Pointers need no alignment. Kernels take plain pointers: nothing
// inline from other headers may be compiled with an instruction set's flags.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"

namespace hostler {

inline constexpr int kMaxTaskTokens = 64;

// Weights that a MatMulTask with many tokens turns into f32 at a time, and the
// sums it keeps meanwhile. Both are to fit the second-level cache.
inline constexpr int kPanelRows = 64;
inline constexpr int kPanelColumns = 512;
inline constexpr size_t kMatMulScratchFloats =
    kPanelRows * kPanelColumns + kMaxTaskTokens * kPanelRows * 16;

// y[t][r] = x[t] · row r of w, for t < tokens and r < rows.
struct MatMulTask {
  DType type = DType::kF32;
  const std::byte* w = nullptr;
  size_t row_bytes = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  const float* const* x = nullptr;
  float* const* y = nullptr;
  int64_t tokens = 0;        // at most kMaxTaskTokens
  float* scratch = nullptr;  // kMatMulScratchFloats
};

// Attention of `rows` consecutive rows of one sequence over the heads that
// share one KV head.
struct AttentionTask {
  const std::byte* kv = nullptr;
  const int32_t* blocks = nullptr;
  size_t block_bytes = 0;
  size_t k_offset = 0, v_offset = 0;  // in a block
  DType type = DType::kF16;
  int block_tokens = 0;
  int head_dim = 0;
  int first_position = 0;
  int rows = 0;
  int heads = 0;
  float scale = 0;
  // [rows][heads][head_dim]; rows are row_stride floats apart.
  const float* q = nullptr;
  float* out = nullptr;
  int64_t row_stride = 0;
  float* scratch = nullptr;  // AttentionScratchFloats(...)
};

// rows * heads of one AttentionTask are at most this.
inline constexpr int kMaxAttentionQueries = 64;

struct KernelTable {
  const char* isa;
  int tile_tokens;  // tokens of a MatMulTask are best a multiple of this

  void (*mat_mul)(const MatMulTask& task);
  void (*attention)(const AttentionTask& task);
  // n values; n is a multiple of the type's block.
  void (*to_f32)(DType type, const std::byte* in, int64_t n, float* out);
  // type is kF32, kF16 or kBF16.
  void (*from_f32)(DType type, const float* in, int64_t n, std::byte* out);
  // out = x / sqrt(mean(x²) + eps) * gain
  void (*rms_norm)(const float* x, DType type, const std::byte* gain, int64_t n, float eps,
                   float* out);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*add)(const float* x, int64_t n, float* y);
  // y += Σ weights[e] * x[e * n ...], in order.
  void (*add_weighted)(const float* weights, int entries, const float* x, int64_t n, float* y);
  void (*softmax)(const float* x, int64_t n, float* out);
};

// Enough for any table.
size_t AttentionScratchFloats(int queries, int head_dim, int block_tokens);

extern const KernelTable kPortableKernels;
#if defined(HOSTLER_X86)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
#endif

}  // namespace hostler
