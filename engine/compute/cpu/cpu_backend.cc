#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "engine/compute/backend.h"
#include "engine/compute/convert_weight.h"
#include "engine/compute/cpu/activation.h"
#include "engine/compute/cpu/attention.h"
#include "engine/compute/cpu/context.h"
#include "engine/compute/cpu/dispatch.h"
#include "engine/compute/cpu/gate.h"
#include "engine/compute/cpu/gated_delta.h"
#include "engine/compute/cpu/mat_mul.h"
#include "engine/compute/cpu/memory.h"
#include "engine/compute/cpu/rope.h"
#include "engine/compute/cpu/weightless.h"
#include "engine/compute/interleave.h"
#include "fmt/format.h"

namespace hostler {
namespace {

class CpuBackend : public Backend {
 public:
  CpuBackend(const KernelTable* kernels, int threads)
      : name_(fmt::format("cpu-{}", kernels->isa)), context_(kernels, threads) {}

  std::string_view name() const override { return name_; }

  bool SharesHostMemory() const override { return true; }

  bool Interleaves(DType type) const override {
    return CanInterleave(type) && UnitKernelsFor(kernels(), type) != nullptr;
  }

  void Convert(const Weight& from, int64_t first, const Weight& to, std::byte* out) override {
    constexpr int64_t kRows = 4 * kInterleavedRows;
    const size_t row_bytes = RowBytes(to.dtype, to.cols);
    context_.For((to.rows + kRows - 1) / kRows, to.rows * to.cols, [&](int64_t chunk, int) {
      const int64_t row = chunk * kRows;
      Weight part = to;
      part.rows = std::min(kRows, to.rows - row);
      ConvertWeight(from, first + row, part, out + static_cast<size_t>(row) * row_bytes);
    });
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    return AllocateHostMemory(bytes);
  }

  absl::StatusOr<std::unique_ptr<Tier>> NewTier(std::span<const SlotClass> classes) override {
    return NewDramTier(classes);
  }

  void Embed(const Weight& table, std::span<const int32_t> ids, Mat out) override {
    const size_t row_bytes = RowBytes(table.dtype, table.cols);
    if (table.interleaved) context_.ReserveScratch(row_bytes / sizeof(float) + 1);
    ForRows(out, [&](int64_t i, int thread) {
      const int64_t id = ids[static_cast<size_t>(i)];
      const std::byte* row = table.data + static_cast<size_t>(id) * row_bytes;
      if (table.interleaved) {
        std::byte* stored = reinterpret_cast<std::byte*>(context_.scratch(thread));
        DeinterleaveRow(table.dtype, table.rows, table.cols, table.data, id, stored);
        row = stored;
      }
      kernels().to_f32(table.dtype, row, table.cols, out.row(i));
    });
  }

  void RmsNorm(Mat x, const Weight& gain, float eps, Mat out) override {
    ForRows(x, [&](int64_t i, int) {
      kernels().rms_norm(x.row(i), gain.dtype, gain.data, x.cols, eps, out.row(i));
    });
  }

  void LayerNorm(Mat x, const Weight& gain, const Weight& bias, float eps, Mat out) override {
    const float* gains = AsF32(gain, gain_);
    const float* biases = AsF32(bias, bias_);
    ForRows(x, [&](int64_t i, int) {
      kernels().layer_norm(x.row(i), gains, biases, x.cols, eps, out.row(i));
    });
  }

  void MatMul(const Weight& w, Mat x, Mat y) override { CpuMatMul(context_, w, 1, x, y); }

  void HeadMatMul(const Weight& w, int heads, Mat x, Mat y) override {
    CpuMatMul(context_, w, heads, x, y);
  }

  bool HasMatMulBf16() const override { return kernels().mat_mul_bf16 != nullptr; }

  void MatMulBf16(const Bf16Tiles& w, const float* bias, Mat x, Mat y) override {
    CpuMatMulBf16(context_, w, bias, x, y);
  }

  void AddBias(const Weight& bias, Mat y) override {
    const float* biases = AsF32(bias, bias_);
    ForRows(y, [&](int64_t i, int) { kernels().add(biases, y.cols, y.row(i)); });
  }

  void Scale(float factor, Mat x) override {
    ForRows(x, [&](int64_t i, int) { kernels().scale(factor, x.cols, x.row(i)); });
  }

  void ScaleRows(std::span<const float> factors, Mat x) override {
    ForRows(x, [&](int64_t i, int) {
      kernels().scale(factors[static_cast<size_t>(i)], x.cols, x.row(i));
    });
  }

  void SigmoidGate(Mat gate, Mat x) override {
    ForRows(x, [&](int64_t i, int) {
      if (gate.cols == x.cols) {
        kernels().sigmoid_mul(gate.row(i), x.cols, x.row(i));
      } else {
        float factor;
        kernels().sigmoid(gate.row(i), 1, &factor);
        kernels().scale(factor, x.cols, x.row(i));
      }
    });
  }

  void SoftCap(float cap, Mat x) override {
    ForRows(x, [&](int64_t i, int) { kernels().soft_cap(cap, x.cols, x.row(i)); });
  }

  void Clamp(float limit, Mat x) override {
    ForRows(x, [&](int64_t i, int) {
      for (float* value = x.row(i); value != x.row(i + 1); ++value) {
        *value = std::clamp(*value, -limit, limit);
      }
    });
  }

  void CopyColumns(Mat from, int64_t from_column, int64_t width, int heads, Mat to,
                   int64_t to_column) override {
    const Mat source = from.reshaped(from.cols / heads);
    const Mat target = to.reshaped(to.cols / heads);
    ForRows(source, [&](int64_t i, int) {
      std::memcpy(target.row(i) + to_column, source.row(i) + from_column,
                  static_cast<size_t>(width) * sizeof(float));
    });
  }

  void Rope(const RopeSpec& rope, const StepBatch& batch, int head_dim, Mat x) override {
    CpuRope(context_, rope, batch, head_dim, x);
  }

  void AppendKv(const StepBatch& batch, int layer, Mat k, Mat v, const KvView& kv) override {
    CpuAppendKv(context_, batch, layer, k, v, kv);
  }

  void Attention(const AttentionSpec& spec, const StepBatch& batch, int layer, Mat q,
                 const KvView& kv, Mat out) override {
    attention_.Run(spec, batch, layer, q, kv, out);
  }

  void Activate(const ActivationSpec& activation, Mat gate, Mat up, Mat out) override {
    ForRows(gate, [&](int64_t i, int) {
      CpuActivate(kernels(), activation, gate.row(i), up.row(i), gate.cols, out.row(i));
    });
  }

  void Gelu(Mat x) override {
    ForRows(x, [&](int64_t i, int) { kernels().gelu(x.cols, x.row(i)); });
  }

  void Add(Mat x, Mat y) override {
    ForRows(x, [&](int64_t i, int) { kernels().add(x.row(i), x.cols, y.row(i)); });
  }

  void SelectExperts(const GateSpec& spec, Mat logits, ExpertSelection* selection) override {
    CpuSelectExperts(context_, spec, logits, selection);
  }

  size_t ExpertScratchBytes(const ExpertLayout& layout, int64_t entries,
                            int64_t experts) const override {
    return expert_ffn_.ScratchBytes(layout, entries, experts);
  }
  void ExpertFfn(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x,
                 Mat out) override {
    expert_ffn_.Run(layout, tasks, x, out);
  }

  void CombineExperts(const ExpertSelection& selection, Mat x, Mat y) override {
    const int64_t entries = static_cast<int64_t>(selection.experts.size());
    context_.For(y.rows, entries * y.cols, [&](int64_t r, int) {
      const int32_t begin = selection.offsets[static_cast<size_t>(r)];
      const int32_t end = selection.offsets[static_cast<size_t>(r) + 1];
      kernels().add_weighted(selection.weights.data() + begin, end - begin, x.row(begin), y.cols,
                             y.row(r));
    });
  }

  void AddWeightless(const WeightlessExperts& experts, const ExpertSelection& selection, Mat mix,
                     Mat x, Mat y) override {
    CpuAddWeightless(context_, experts, selection, mix, x, y);
  }

  void GatedDelta(const DeltaNetSpec& spec, const StepBatch& batch, size_t state_offset, Mat mixed,
                  Mat beta, Mat decay, const StateView& state, Mat out) override {
    gated_delta_.Run(spec, batch, state_offset, mixed, beta, decay, state, out);
  }

  void Zero(Mat x) override { std::fill_n(x.data, x.rows * x.cols, 0.0f); }

  void GatherRows(Mat from, std::span<const int32_t> rows, Mat to) override {
    const size_t row_bytes = static_cast<size_t>(from.cols) * sizeof(float);
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(to.row(static_cast<int64_t>(i)), from.row(rows[i]), row_bytes);
    }
  }

  int MostStrongest() const override { return 0; }
  void Strongest(Mat, int, LogitCandidate*) override { std::abort(); }
  absl::Status ReadBack(Mat from, float* to) override {
    if (from.rows > 0) {
      std::memcpy(to, from.data, static_cast<size_t>(from.rows * from.cols) * sizeof(float));
    }
    return absl::OkStatus();
  }

 private:
  const KernelTable& kernels() const { return context_.kernels(); }

  // A loop over x's rows, several in a chunk if they are short.
  template <typename F>
  void ForRows(Mat x, F body) {
    constexpr int64_t kChunkValues = 16384;
    const int64_t rows = std::max<int64_t>(kChunkValues / std::max<int64_t>(x.cols, 1), 1);
    context_.For((x.rows + rows - 1) / rows, x.rows * x.cols, [&](int64_t chunk, int thread) {
      const int64_t end = std::min((chunk + 1) * rows, x.rows);
      for (int64_t i = chunk * rows; i < end; ++i) body(i, thread);
    });
  }

  // A vector's values, in `scratch` if they are not f32 already.
  const float* AsF32(const Weight& vector, Scratch& scratch) const {
    if (vector.dtype == DType::kF32) return reinterpret_cast<const float*>(vector.data);
    scratch.Reserve(static_cast<size_t>(vector.cols));
    kernels().to_f32(vector.dtype, vector.data, vector.cols, scratch.data());
    return scratch.data();
  }

  std::string name_;
  CpuContext context_;
  CpuAttention attention_{context_};
  CpuExpertFfn expert_ffn_{context_};
  CpuGatedDelta gated_delta_{context_};
  Scratch gain_, bias_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(int threads, std::string_view isa) {
  if (threads < 1) return absl::InvalidArgumentError("threads: must be at least 1");
  absl::StatusOr<const KernelTable*> kernels = SelectKernels(isa);
  if (!kernels.ok()) return kernels.status();
  return std::make_unique<CpuBackend>(*kernels, threads);
}

}  // namespace hostler
