// Backend: the tensor operations of a step, on one kind of device.
//
// Activations are f32 matrices in the backend's own memory; weights are
// row-major [out, in] matrices of any weight type. Every operation works on
// each row by itself and sums in a fixed order: a row's result depends neither
// on its neighbours in the step nor on the number of threads. That is what
// makes batching, chunking and caching invisible in the answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/tier.h"
#include "engine/base/dtype.h"
#include "engine/compute/bf16_tiles.h"
#include "engine/compute/graph_counts.h"
#include "engine/compute/interleave.h"
#include "engine/compute/logit_candidate.h"
#include "engine/compute/step_batch.h"
#include "engine/kv/layout.h"

namespace hostler {

// Of a device with memory of its own, bytes.
struct DeviceMemory {
  uint64_t free = 0, total = 0;
};

// A view of f32 activations, [rows, cols], contiguous.
struct Mat {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;

  constexpr float* row(int64_t i) const { return data + i * cols; }
  Mat first_rows(int64_t n) const { return {data, n, cols}; }
  // The same values as [rows * cols / new_cols, new_cols].
  Mat reshaped(int64_t new_cols) const { return {data, rows * cols / new_cols, new_cols}; }
};

// A view of a weight matrix, [rows = out features, cols = in features].
// cols is a multiple of the type's block. A vector (norm gain) has one row.
struct Weight {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;
  bool interleaved = false;  // its rows are, see interleave.h

  size_t bytes() const { return RowBytes(dtype, cols) * static_cast<size_t>(rows); }
};

// Memory that a backend's operations may use: until ReadBack.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual std::byte* data() = 0;
  virtual size_t bytes() const = 0;
  // Bytes [from, to) hold nothing that is needed; they take no memory until they
  // are written again, as far as whole pages can be given back.
  virtual void Discard(size_t from, size_t to) = 0;
};

// Rotary position embedding: some element pairs of a head are turned by
// position * inv_freq[i]. Pairs are (i, i + n/2) of the n = 2 * inv_freq.size()
// turned dimensions ("neox"), or neighbours (2i, 2i+1). Others pass unchanged.
struct RopeSpec {
  std::vector<float> inv_freq;  // [turned dimensions / 2]
  // longrope: sequences whose prompt is longer than `short_context` turn by
  // these, and have long_scale. Empty: none.
  std::vector<float> long_inv_freq = {};
  int short_context = 0;
  int first = 0;  // the first turned dimension of a head
  bool interleaved = false;
  float scale = 1.0f;  // multiplies cos and sin (yarn, longrope)
  float long_scale = 1.0f;
};

struct AttentionSpec {
  int heads = 0;       // query heads; KV heads and widths are the layout's
  float scale = 0.0f;  // multiplies q·k
  int window = 0;      // > 0: a row sees this many positions, its own included
  int chunk = 0;       // > 0: a row sees its own aligned chunk of positions only
  float soft_cap = 0;  // > 0: scores become cap * tanh(score / cap)
  // [heads] or empty: a score each head adds to the softmax's denominator
  // without a value (gpt-oss).
  std::vector<float> sinks = {};
};

// The KV memory of all blocks and how a block lies in it.
struct KvView {
  KvLayout layout;
  std::byte* data = nullptr;

  std::byte* block(int32_t index) const { return data + size_t(index) * layout.block_bytes(); }
};

// Gated delta net (Yang et al. 2024), as Qwen3-Next has it: a causal depthwise
// convolution with SiLU over q|k|v, L2-normalised q and k, then for each value
// head S = exp(g) S; S += k ⊗ (beta (v - Sᵀk)); out = Sᵀ q / sqrt(key_dim), with
// beta = sigmoid(beta logit) and g = -exp(a_log) softplus(decay logit + dt_bias).
struct DeltaNetSpec {
  int key_heads = 0, value_heads = 0;  // value heads share key heads evenly
  int key_dim = 0, value_dim = 0;      // of a head
  int kernel = 0;                      // the convolution's width
  std::vector<float> conv;             // [mixed_dim, kernel]
  std::vector<float> a_log, dt_bias;   // [value_heads]

  int mixed_dim() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
  // f32 values of one layer in a state slot: the convolution's last kernel - 1
  // inputs, then S of every value head.
  size_t state_floats() const {
    return size_t(mixed_dim()) * (kernel - 1) + size_t(value_heads) * key_dim * value_dim;
  }
};

// Memory of recurrent state: one slot a sequence (gated delta net).
struct StateView {
  std::byte* data = nullptr;
  size_t slot_bytes = 0;

  std::byte* slot(int32_t index) const { return data + size_t(index) * slot_bytes; }
};

// How gate logits become chosen experts and their weights, in this order:
// score, (add the bias to choose by), mask groups, take top_k or top_p, leave
// out what is idle, weigh, scale.
// Equal scores go to the lower index.
struct GateSpec {
  enum class Score {
    kSoftmax,      // over all experts
    kSigmoid,      // of each
    kLogits,       // raw; the weights are the softmax over the chosen (gpt-oss)
    kSparseMixer,  // Phi-3.5-MoE: each choice's softmax over the scores near it
  };
  // How good a group of experts is, for group-limited gating (DeepSeek).
  enum class GroupScore { kBest, kBestTwo };

  Score score = Score::kSoftmax;
  int top_k = 0;
  // > 0: instead of top_k, as few as reach this probability together, at least
  // one and at most top_k (dynamic k; Huang et al. 2024, "Harder Tasks Need More
  // Experts").
  float top_p = 0;
  std::vector<float> bias = {};  // [experts] or empty: added for choosing, not weighing
  int groups = 1;                // equal, consecutive
  int top_groups = 1;            // experts outside the best groups are not chosen
  GroupScore group_score = GroupScore::kBest;
  bool normalize = true;  // chosen weights are divided by their sum...
  float least_sum = 0;    // ...or by this, if that is more
  float sum_epsilon = 0;  // added to the sum
  float scale = 1.0f;     // multiplies the weights at last
  float jitter = 0.01f;   // kSparseMixer's threshold
  // So many of the last experts give nothing (MoE++'s zero experts, AdaMoE's
  // null experts): a row may choose them, and has fewer entries then.
  int idle = 0;
};

// The experts every row chose, strongest first. Row r's choices are entries
// [offsets[r], offsets[r + 1]); a row may have any number of them. On the host.
struct ExpertSelection {
  std::vector<int32_t> offsets;  // [rows + 1]
  std::vector<int32_t> experts;  // [entries]
  std::vector<float> weights;    // [entries]
};

// Experts without matrices (MoE++; Jin et al. 2024, section 3.1): constants,
// which mix the input with a learned vector, then copies of the input.
struct WeightlessExperts {
  int first = 0;     // the first one's id
  Weight constants;  // [constants, dim] in f32; no rows: there are copies only
};

// The product of gate and up that a feed-forward network computes.
enum class Activation {
  kSilu,       // silu(gate) * up
  kGeluTanh,   // gelu(gate), tanh form, * up
  kSwigluOai,  // gpt-oss: gate ≤ limit, |up| ≤ limit: gate·sigmoid(1.702·gate)·(up + 1)
};

struct ActivationSpec {
  Activation kind = Activation::kSilu;
  float limit = 0;  // kSwigluOai
};

// How one expert lies in a slot: three matrices and, for some models, three
// bias vectors (f32), at byte offsets.
struct ExpertLayout {
  static constexpr size_t kNone = ~size_t{0};

  int64_t dim = 0;  // model width
  int64_t ffn = 0;  // expert width
  ActivationSpec activation = {};
  DType gate_type = DType::kBF16, up_type = DType::kBF16, down_type = DType::kBF16;
  size_t gate_offset = 0, up_offset = 0, down_offset = 0;
  size_t gate_bias = kNone, up_bias = kNone, down_bias = kNone;  // [ffn], [ffn], [dim]
  size_t bytes = 0;
  bool interleaved = false;  // the matrices whose types can be, see interleave.h

  // gate|up|down, one after another, and gate|up|down biases after them.
  static ExpertLayout Packed(int64_t dim, int64_t ffn, DType gate, DType up, DType down,
                             bool biases = false);
  Weight gate(const std::byte* slot) const {
    return {gate_type, ffn, dim, slot + gate_offset, interleaved && CanInterleave(gate_type)};
  }
  Weight up(const std::byte* slot) const {
    return {up_type, ffn, dim, slot + up_offset, interleaved && CanInterleave(up_type)};
  }
  Weight down(const std::byte* slot) const {
    return {down_type, dim, ffn, slot + down_offset, interleaved && CanInterleave(down_type)};
  }
};

// One expert's work in a step.
struct ExpertTask {
  const std::byte* slot = nullptr;    // of the backend's tier, or on_host of its host tier
  std::span<const int32_t> in_rows;   // rows of x that chose it
  std::span<const int32_t> out_rows;  // where each result goes, same length
  // Same length or empty: multiplies each input row (Llama 4 weighs the
  // expert's input, not its output).
  std::span<const float> in_scales = {};
  // Where the tier is not the host's: the host computes it, with the same result, while
  // the device does what else there is. Not null: gets what that took.
  bool on_host = false;
  double* seconds = nullptr;
};

// Used by one thread (the engine loop's). Operations are done when they return
// unless a backend says otherwise; ReadBack always waits, and tells what went wrong
// before it. Until then operations after a failed one give anything.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;

  // Whether its operations take memory of the host. If not, what views show is memory
  // of its own: what Allocate gave.
  virtual bool SharesHostMemory() const = 0;

  // Its memory as it is now; nullopt: the host's.
  virtual std::optional<DeviceMemory> memory() const { return std::nullopt; }
  virtual GraphCounts graph_counts() const { return {}; }

  // Whether products with weights of the type are faster if these are interleaved.
  // Interleaved weights are for Embed and, where this says so only, for MatMul,
  // HeadMatMul with heads of whole panels and ExpertFfn.
  virtual bool Interleaves(DType type) const = 0;

  // ConvertWeight() (convert_weight.h), by all threads, from the host's memory to the
  // backend's.
  virtual void Convert(const Weight& from, int64_t first, const Weight& to, std::byte* out) = 0;

  // Zeroed memory, 64-byte aligned, that is taken as it is written. Errors:
  // ResourceExhausted.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) = 0;

  // A tier whose slots ExpertFfn computes with where they are. Errors: ResourceExhausted.
  virtual absl::StatusOr<std::unique_ptr<Tier>> NewTier(std::span<const SlotClass> classes) = 0;

  // A tier on the host: where NewTier's is not, what that is filled from, and what
  // ExpertFfn computes on the host.
  virtual absl::StatusOr<std::unique_ptr<Tier>> NewHostTier(std::span<const SlotClass> classes) {
    return NewDramTier(classes);
  }

  // out[i, :] = table[ids[i], :]. REQUIRES: 0 <= ids[i] < table.rows
  virtual void Embed(const Weight& table, std::span<const int32_t> ids, Mat out) = 0;

  // out = x / sqrt(mean(x²) + eps) * gain, row by row. out may be x. A null
  // gain is all ones.
  virtual void RmsNorm(Mat x, const Weight& gain, float eps, Mat out) = 0;

  // out = (x - mean(x)) / sqrt(var(x) + eps) * gain + bias. out may be x.
  virtual void LayerNorm(Mat x, const Weight& gain, const Weight& bias, float eps, Mat out) = 0;

  // y = x · wᵀ: x [rows, w.cols], y [rows, w.rows].
  virtual void MatMul(const Weight& w, Mat x, Mat y) = 0;

  // The same for each head: x [rows, heads * w.cols], y [rows, heads * out],
  // where head h's matrix is rows [h * out, (h + 1) * out) of w.
  virtual void HeadMatMul(const Weight& w, int heads, Mat x, Mat y) = 0;

  // Whether there is MatMulBf16.
  virtual bool HasMatMulBf16() const = 0;

  // y = x · wᵀ + bias [w.rows], with x rounded to bf16 and sums in f32: for models that
  // bear it, several times as fast as MatMul.
  virtual void MatMulBf16(const Bf16Tiles& w, const float* bias, Mat x, Mat y) = 0;

  // y += bias (a [1, y.cols] vector), to each row.
  virtual void AddBias(const Weight& bias, Mat y) = 0;

  // x *= factor; and row by row, x[r] *= factors[r].
  virtual void Scale(float factor, Mat x) = 0;
  virtual void ScaleRows(std::span<const float> factors, Mat x) = 0;

  // x[r] *= sigmoid(gate[r]), gate [rows, 1]; and elementwise, gate [rows, x.cols].
  virtual void SigmoidGate(Mat gate, Mat x) = 0;

  // x = cap * tanh(x / cap), elementwise; and x within ±limit.
  virtual void SoftCap(float cap, Mat x) = 0;
  virtual void Clamp(float limit, Mat x) = 0;

  // to[r, to_column .. + width) = from[r, from_column .. + width), where rows
  // are those of equally many "heads" within each: from is seen as
  // [rows * heads, from.cols / heads], to likewise.
  virtual void CopyColumns(Mat from, int64_t from_column, int64_t width, int heads, Mat to,
                           int64_t to_column) = 0;

  // In place on the batch's rows x [rows, heads * head_dim].
  virtual void Rope(const RopeSpec& rope, const StepBatch& batch, int head_dim, Mat x) = 0;

  // Writes k [rows, kv_heads * k_dim] and v [rows, kv_heads * v_dim] to the
  // batch's blocks. With layout.v_in_k v is not used.
  virtual void AppendKv(const StepBatch& batch, int layer, Mat k, Mat v, const KvView& kv) = 0;

  // Causal attention of q [rows, heads * k_dim] over each row's own sequence,
  // up to and including its position; out [rows, heads * v_dim].
  // Softmax in one pass over blocks (FlashAttention, Dao 2022, algorithm 1).
  virtual void Attention(const AttentionSpec& spec, const StepBatch& batch, int layer, Mat q,
                         const KvView& kv, Mat out) = 0;

  // The activation's product, elementwise. out may be gate or up.
  virtual void Activate(const ActivationSpec& activation, Mat gate, Mat up, Mat out) = 0;

  // x = x Φ(x), Φ the normal distribution's: gelu as erf defines it, elementwise.
  virtual void Gelu(Mat x) = 0;

  // y += x.
  virtual void Add(Mat x, Mat y) = 0;

  // Chooses experts from gate logits [rows, experts].
  virtual void SelectExperts(const GateSpec& spec, Mat logits, ExpertSelection* selection) = 0;

  // For every task: out[out_rows[i]] = down · act(gate · x, up · x), with the
  // biases there are, x = x[in_rows[i]] * in_scales[i]. All in_rows of all
  // tasks together are at most out.rows.
  virtual void ExpertFfn(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x,
                         Mat out) = 0;

  // Bytes that ExpertFfn takes of its own, at most, for `entries` (rows times the
  // experts that each chose) of `experts` experts.
  virtual size_t ExpertScratchBytes(const ExpertLayout& layout, int64_t entries,
                                    int64_t experts) const = 0;

  // y[r] += Σ weights[e] * x[e] over row r's entries e, in their order.
  virtual void CombineExperts(const ExpertSelection& selection, Mat x, Mat y) = 0;

  // For every entry of `selection`, all of weightless experts: y[r] += weight *
  // x[r] for a copy, and weight * (a * x[r] + b * constant c) for constant c with
  // (a, b) = softmax(mix[r, 2c], mix[r, 2c + 1]). mix [rows, 2 * constants].
  virtual void AddWeightless(const WeightlessExperts& experts, const ExpertSelection& selection,
                             Mat mix, Mat x, Mat y) = 0;

  // The gated delta rule with its short convolution (see DeltaNetSpec), for
  // each sequence's rows in order. `state_offset` is where this layer's part of
  // a state slot begins, in bytes; the part becomes zeros at position 0. mixed
  // [rows, spec.mixed_dim()], beta and decay logits [rows, value heads] each,
  // out [rows, value heads * value dim].
  virtual void GatedDelta(const DeltaNetSpec& spec, const StepBatch& batch, size_t state_offset,
                          Mat mixed, Mat beta, Mat decay, const StateView& state, Mat out) = 0;

  // x = 0.
  virtual void Zero(Mat x) = 0;

  // to[i] = from.row(rows[i]).
  virtual void GatherRows(Mat from, std::span<const int32_t> rows, Mat to) = 0;

  // How many of a row's strongest values Strongest finds at most; 0: there is none, rows
  // are looked through where they are.
  virtual int MostStrongest() const = 0;

  // The `count` strongest values of each row, strongest first, [rows, count]: on the host
  // when ReadBack returns OK. REQUIRES: count <= MostStrongest(), x.cols
  virtual void Strongest(Mat x, int count, LogitCandidate* strongest) = 0;

  // Copies to host memory, [rows, cols]; waits for all work before it, if there are no
  // rows too. Errors: of any operation since the last call.
  virtual absl::Status ReadBack(Mat from, float* to) = 0;
};

// The CPU backend: runs on `threads` threads (the caller is one of them) with the best
// kernels this CPU has; with `isa` "f32" the best that keep all inputs f32, or those it
// names (tests; cpu/dispatch.cc). Errors: InvalidArgument when the CPU lacks them.
absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(int threads, std::string_view isa = "");

}  // namespace hostler
