// The inner loops of the CPU backend, one table per instruction set. Every
// result is summed in an order that depends only on the shapes of that result's
// own inputs. Pointers need no alignment. Kernels take plain pointers: nothing
// inline from other headers may be compiled with an instruction set's flags.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.h"
#include "engine/compute/cpu/units.h"

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

// y[t][r] = x[t] · row r of w + bias[r] for t < tokens and r < 16 * panels, where all
// factors are bf16.
struct Bf16Task {
  const std::byte* w = nullptr;  // panels of Bf16Tiles
  // Tiles of 16 tokens by 32 columns, a token's columns in a row, in the same order; there
  // are whole ones of the last tokens too.
  const std::byte* x = nullptr;
  int64_t steps = 0;  // of 32 columns
  int64_t panels = 0;
  int64_t tokens = 0;
  const float* bias = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;  // floats
};

// Tokens [kAttentionSpan * s, kAttentionSpan * (s + 1)) of a sequence are span s.
// A row's attention over a span starts anew; the spans' results are merged in
// order. So spans can be computed apart.
inline constexpr int kAttentionSpan = 256;
inline constexpr int kAttentionTile = 16;  // queries

// Attention of `rows` consecutive rows of one sequence over the heads that
// share one KV head.
struct AttentionTask {
  const std::byte* kv = nullptr;
  const int32_t* blocks = nullptr;
  size_t block_bytes = 0;
  size_t k_offset = 0, v_offset = 0;  // in a block
  size_t k_row_bytes = 0, v_row_bytes = 0;
  DType type = DType::kF16;  // kF32, kF16, kBF16 or kQ8_0
  int block_tokens = 0;
  int k_dim = 0;
  int v_dim = 0;
  bool v_in_k = false;
  int first_position = 0;
  int rows = 0;
  int heads = 0;
  int first_span = 0, end_span = 0;  // what to compute, or to merge
  float scale = 0;
  int window = 0, chunk = 0;     // 0: none
  float soft_cap = 0;            // 0: none
  const float* sinks = nullptr;  // [heads] or null
  // [rows][heads][k_dim] and [rows][heads][v_dim]; rows are a stride apart.
  const float* q = nullptr;
  int64_t q_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  // Null, or where the spans' results go instead of `out`: AttentionPartialFloats
  // of span first_span first.
  float* partials = nullptr;
  float* scratch = nullptr;  // AttentionScratchFloats(...), 64-byte aligned
};

// A causal depthwise convolution with SiLU over `rows` rows of some channels:
// out[t] = silu(Σ weights[j] * in[t - (kernel - 1) + j]), where inputs before
// the first are the state's. Rows of in, out and state are `stride` floats apart.
struct ShortConvTask {
  const float* weights = nullptr;  // [kernel, channels]
  int kernel = 0;
  int64_t channels = 0;
  int rows = 0;
  float* state = nullptr;  // [kernel - 1] rows, oldest first; moves on to the last inputs
  const float* in = nullptr;
  float* out = nullptr;
  int64_t stride = 0;
};

// The gated delta rule of one value head over consecutive rows, see
// DeltaNetSpec. q, k and v are ready: convolved, normalised and scaled.
struct GatedDeltaTask {
  const float* q = nullptr;      // [key_dim] a row
  const float* k = nullptr;      // [key_dim] a row
  const float* v = nullptr;      // [value_dim] a row
  int64_t stride = 0;            // between rows of q, k and v
  const float* decay = nullptr;  // [rows], exp(g)
  const float* beta = nullptr;   // [rows]
  int rows = 0;
  int64_t key_dim = 0, value_dim = 0;
  float* state = nullptr;  // [key_dim, value_dim]
  float* out = nullptr;    // [value_dim] a row
  int64_t out_stride = 0;
};

struct KernelTable {
  const char* isa;
  int tile_tokens;  // tokens of a MatMulTask are best a multiple of this

  void (*mat_mul)(const MatMulTask& task);
  void (*attention)(const AttentionTask& task);
  // From the partials of all spans that the rows see to `out`.
  void (*merge_attention)(const AttentionTask& task);
  // n values; n is a multiple of the type's block.
  void (*to_f32)(DType type, const std::byte* in, int64_t n, float* out);
  // type is kF32, kF16 or kBF16.
  void (*from_f32)(DType type, const float* in, int64_t n, std::byte* out);
  // out = x / sqrt(mean(x²) + eps) * gain; a null gain is all ones.
  void (*rms_norm)(const float* x, DType type, const std::byte* gain, int64_t n, float eps,
                   float* out);
  // out = (x - mean(x)) / sqrt(var(x) + eps) * gain + bias
  void (*layer_norm)(const float* x, const float* gain, const float* bias, int64_t n, float eps,
                     float* out);
  // x *= scale / sqrt(Σ x² + eps)
  void (*unit_norm)(float* x, int64_t n, float eps, float scale);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu)(int64_t n, float* x);
  void (*swiglu_oai)(const float* gate, const float* up, int64_t n, float limit, float* out);
  void (*sigmoid)(const float* x, int64_t n, float* out);
  void (*sigmoid_mul)(const float* gate, int64_t n, float* x);
  void (*soft_cap)(float cap, int64_t n, float* x);
  void (*scale)(float factor, int64_t n, float* x);
  void (*add)(const float* x, int64_t n, float* y);
  // y += Σ weights[e] * x[e * n ...], in order.
  void (*add_weighted)(const float* weights, int entries, const float* x, int64_t n, float* y);
  void (*softmax)(const float* x, int64_t n, float* out);
  void (*short_conv)(const ShortConvTask& task);
  void (*gated_delta)(const GatedDeltaTask& task);

  // What mat_mul is not to do for the types that these have; null from the first on that
  // there is not.
  const UnitKernels* units[3] = {};
  // Null where the CPU has no tiles of bf16.
  void (*mat_mul_bf16)(const Bf16Task& task) = nullptr;
};

// Enough for any table; `queries` are a task's rows * heads.
size_t AttentionScratchFloats(int queries, int k_dim, int v_dim);
// The result of one span: per query a maximum, a sum and v_dim values.
size_t AttentionPartialFloats(int queries, int v_dim);

extern const KernelTable kPortableKernels;
#if defined(HOSTLER_X86)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
// With products of bf16 in tiles (attention_amx.cc).
void AttentionByAmx(const AttentionTask& task);
void MergeAttentionByAmx(const AttentionTask& task);
void MatMulBf16ByAmx(const Bf16Task& task);
#endif

}  // namespace hostler
