// The backend's kernels, to be called from the host. All pointers in what they are
// given are the device's unless it says otherwise; all only queue. Shapes are those
// of Backend's operations.
#pragma once

#include <cstdint>

#include "engine/compute/backend.h"
#include "engine/compute/cuda/integers.h"
#include "engine/compute/cuda/launch.h"

namespace hostler {

// Up to kTileTokens rows of input for one matrix of a grouped product.
struct MatMulGroup {
  const uint8_t* w = nullptr;
  const uint8_t* bias = nullptr;  // f32, of any alignment; null: none
  int32_t first = 0, count = 0;   // entries
  int32_t out = 0;                // what is added to an entry's row of y
};

inline constexpr int kTileTokens = 8;

// Products y = x · wᵀ. Of one matrix, or `heads` as Backend::HeadMatMul has them; or,
// with `groups`, of many: entry e of a group reads row in_rows[e] of x, times in_scales[e],
// and writes row out_rows[e] of y, or `out` rows further. Null: e itself, and 1.
struct MatMulTask {
  DType type = DType::kF32;
  const uint8_t* w = nullptr;
  size_t w_bytes = 0;
  int64_t rows = 0, cols = 0;  // of a head's matrix
  const float* x = nullptr;
  int64_t x_stride = 0, x_rows = 0;
  float* y = nullptr;
  int64_t y_stride = 0, y_rows = 0;
  int64_t tokens = 0, first_token = 0;
  int heads = 1;

  const MatMulGroup* groups = nullptr;
  int group_count = 0;
  const int32_t* in_rows = nullptr;
  const float* in_scales = nullptr;
  const int32_t* out_rows = nullptr;
  bool single = false;  // no group has more than one entry
  bool few = false;     // see LaunchIntegerMatMul
};
// `slots`: all that the groups' matrices lie in.
void LaunchMatMul(Launcher& launcher, const MatMulTask& task,
                  std::span<const DeviceRange> slots = {});

// Inputs as integers (integers.h), a record a row: the bytes `high` of its columns, the
// bytes `low`, the sums of every 16 columns' q as f32, the groups' scales.
struct IntegerInputs {
  const std::byte* data = nullptr;  // 16-byte aligned
  int64_t rows = 0, cols = 0;

  static constexpr size_t RowBytes(int64_t cols) {
    const int64_t groups = (cols + kIntegerGroup - 1) / kIntegerGroup;
    return static_cast<size_t>(cols * 2 + cols / 16 * 4 + groups * 4 + 15) / 16 * 16;
  }
  size_t bytes() const { return RowBytes(cols) * static_cast<size_t>(rows); }
};
// Writes `to` from rows of x [.., to.cols], contiguous: to.rows of them, or with in_rows
// row in_rows[e] for entry e, times in_scales[e]. x_rows: how many x has.
void LaunchQuantizeInputs(Launcher& launcher, const float* x, int64_t x_rows,
                          const int32_t* in_rows, const float* in_scales, const IntegerInputs& to);

// The same as LaunchMatMul, of task.x's rows as integers (with heads, row * heads + head);
// in_scales are not used. All groups are of at most kFewTokens if task.few, else
// kTensorTokens. REQUIRES: HasIntegers(task.type)
void LaunchIntegerMatMul(Launcher& launcher, const MatMulTask& task, const IntegerInputs& x,
                         std::span<const DeviceRange> slots = {});

void LaunchEmbed(Launcher& launcher, const Weight& table, const int32_t* ids, Mat out);
void LaunchRmsNorm(Launcher& launcher, Mat x, const Weight& gain, float eps, Mat out);
void LaunchLayerNorm(Launcher& launcher, Mat x, const Weight& gain, const Weight& bias, float eps,
                     Mat out);
void LaunchAddBias(Launcher& launcher, const Weight& bias, Mat y);
void LaunchScale(Launcher& launcher, float factor, Mat x);
void LaunchScaleRows(Launcher& launcher, const float* factors, Mat x);
void LaunchSigmoidGate(Launcher& launcher, Mat gate, Mat x);
void LaunchSoftCap(Launcher& launcher, float cap, Mat x);
void LaunchClamp(Launcher& launcher, float limit, Mat x);
void LaunchCopyColumns(Launcher& launcher, Mat from, int64_t from_column, int64_t width, int heads,
                       Mat to, int64_t to_column);
void LaunchActivate(Launcher& launcher, const ActivationSpec& activation, Mat gate, Mat up,
                    Mat out);
void LaunchGelu(Launcher& launcher, Mat x);
void LaunchAdd(Launcher& launcher, Mat x, Mat y);
void LaunchZero(Launcher& launcher, Mat x);
void LaunchGatherRows(Launcher& launcher, Mat from, const int32_t* rows, Mat to);

// y[r] += Σ weights[e] * x[e] over entries [offsets[r], offsets[r + 1]).
void LaunchCombine(Launcher& launcher, const int32_t* offsets, const float* weights, Mat x, Mat y);
struct WeightlessTask {
  const int32_t* offsets = nullptr;
  const int32_t* experts = nullptr;
  const float* weights = nullptr;
  int first = 0;
  const float* constants = nullptr;
  int constant_count = 0;
};
void LaunchWeightless(Launcher& launcher, const WeightlessTask& task, Mat mix, Mat x, Mat y);

// A step as kernels see it.
struct DeviceSequence {
  int32_t first_row = 0, rows = 0, first_position = 0, prompt_tokens = 0;
  int32_t first_block = 0;  // in DeviceBatch::blocks
  int32_t state = -1;
};
struct DeviceBatch {
  const DeviceSequence* sequences = nullptr;
  const int32_t* row_sequences = nullptr;  // [rows] which of them each row is of
  const int32_t* positions = nullptr;      // [rows]
  const int32_t* blocks = nullptr;
  int sequence_count = 0, rows = 0;
  // The largest of `blocks`, of the states and of the positions. Kernels are not told: a
  // step is to look like the one before.
  int32_t last_block = -1, last_state = -1, last_position = 0;

  DeviceBatch ForKernels() const {
    DeviceBatch batch = *this;
    batch.last_block = batch.last_state = batch.last_position = -1;
    return batch;
  }
};

struct DeviceRope {
  const float* inv_freq = nullptr;
  const float* long_inv_freq = nullptr;  // null: none
  int pairs = 0;
  int short_context = 0, first = 0;
  bool interleaved = false;
  float scale = 1, long_scale = 1;
};
void LaunchRope(Launcher& launcher, const DeviceRope& rope, const DeviceBatch& batch, int head_dim,
                Mat x);

void LaunchAppendKv(Launcher& launcher, const DeviceBatch& batch, int layer, Mat k, Mat v,
                    const KvView& kv);

struct DeviceAttention {
  int heads = 0;
  float scale = 0;
  int window = 0, chunk = 0;
  float soft_cap = 0;
  const float* sinks = nullptr;  // [heads] or null
};
// The widest values it can attend to.
inline constexpr int kMostValueDim = 512;
// REQUIRES: layout.v_dim <= kMostValueDim, layout.k_dim <= kMostKeyDim
inline constexpr int kMostKeyDim = 768;
// `scratch`: AttentionScratchFloats.
void LaunchAttention(Launcher& launcher, const DeviceAttention& spec, const DeviceBatch& batch,
                     int layer, Mat q, const KvView& kv, float* scratch, Mat out);
size_t AttentionScratchFloats(const DeviceAttention& spec, const DeviceBatch& batch,
                              const KvLayout& layout);

// Of each row: counts[r] experts and their weights, at [r * k, ...).
struct GateTask {
  GateSpec::Score score = GateSpec::Score::kSoftmax;
  int experts = 0, k = 0;
  float top_p = 0;
  const float* bias = nullptr;  // [experts] or null
  int groups = 1, top_groups = 1;
  bool best_two = false;
  bool normalize = true;
  float least_sum = 0, sum_epsilon = 0, scale = 1, jitter = 0;
  int idle = 0;
  int32_t* counts = nullptr;
  int32_t* chosen = nullptr;
  float* weights = nullptr;
};
inline constexpr int kMostGateExperts = 3072;
void LaunchGate(Launcher& launcher, const GateTask& task, Mat logits);

// A value and where it is among those of its row, as one number: the larger, the stronger
// (LogitCandidate). 0: none.
using StrongKey = unsigned long long;
inline constexpr int kMostStrongest = 64;
// Keys that passes over rows of so many values leave each other.
int64_t StrongestScratchKeys(int64_t rows, int64_t cols, int count);
// The keys of each row's strongest values, [rows, count]: where in the scratch memory.
const StrongKey* LaunchStrongest(Launcher& launcher, Mat x, int count, StrongKey* scratch);
LogitCandidate CandidateOf(StrongKey key);

struct DeviceDeltaNet {
  int key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0, kernel = 0;
  int mixed_dim = 0;
  const float* conv = nullptr;
  const float* a_log = nullptr;
  const float* dt_bias = nullptr;
};
// `convolved` [rows, mixed_dim] is work space.
void LaunchGatedDelta(Launcher& launcher, const DeviceDeltaNet& spec, const DeviceBatch& batch,
                      size_t state_offset, Mat mixed, Mat beta, Mat decay, const StateView& state,
                      float* convolved, Mat out);

inline DeviceRange RangeOf(Mat x) {
  return {x.data, static_cast<size_t>(x.rows * x.cols) * sizeof(float)};
}
inline DeviceRange RangeOf(const Weight& w) { return {w.data, w.data == nullptr ? 0 : w.bytes()}; }
template <typename T>
DeviceRange RangeOf(const T* data, int64_t count) {
  return {data, data == nullptr ? 0 : static_cast<size_t>(count) * sizeof(T)};
}

}  // namespace hostler
