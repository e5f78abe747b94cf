// For tests: a backend with memory of its own, used as if it took the host's. Each
// operation's inputs are copied to it and its outputs back, each view in an allocation
// of its own, so that an emulated device faults on what lies beside them.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "engine/compute/backend.h"
#include "gtest/gtest.h"

namespace hostler::testing {

class StagedBackend : public Backend {
 public:
  explicit StagedBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  std::string_view name() const override { return backend_->name(); }
  bool SharesHostMemory() const override { return true; }
  bool Interleaves(DType type) const override { return backend_->Interleaves(type); }
  void Convert(const Weight& from, int64_t first, const Weight& to, std::byte* out) override {
    Stage stage(*this);
    backend_->Convert(from, first, to, stage.Bytes(out, to.bytes(), true));
  }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    return backend_->Allocate(bytes);
  }
  absl::StatusOr<std::unique_ptr<Tier>> NewTier(std::span<const SlotClass> classes) override {
    return backend_->NewTier(classes);
  }
  absl::StatusOr<std::unique_ptr<Tier>> NewHostTier(std::span<const SlotClass> classes) override {
    return backend_->NewHostTier(classes);
  }
  void Embed(const Weight& table, std::span<const int32_t> ids, Mat out) override {
    Stage s(*this);
    backend_->Embed(s.In(table), ids, s.Out(out));
  }
  void RmsNorm(Mat x, const Weight& gain, float eps, Mat out) override {
    Stage s(*this);
    const Mat to = s.Out(out);
    backend_->RmsNorm(s.In(x), s.In(gain), eps, to);
  }
  void LayerNorm(Mat x, const Weight& gain, const Weight& bias, float eps, Mat out) override {
    Stage s(*this);
    const Mat to = s.Out(out);
    backend_->LayerNorm(s.In(x), s.In(gain), s.In(bias), eps, to);
  }
  void MatMul(const Weight& w, Mat x, Mat y) override {
    Stage s(*this);
    backend_->MatMul(s.In(w), s.In(x), s.Out(y));
  }
  void HeadMatMul(const Weight& w, int heads, Mat x, Mat y) override {
    Stage s(*this);
    backend_->HeadMatMul(s.In(w), heads, s.In(x), s.Out(y));
  }
  bool HasMatMulBf16() const override { return backend_->HasMatMulBf16(); }
  void MatMulBf16(const Bf16Tiles& w, const float* bias, Mat x, Mat y) override {
    backend_->MatMulBf16(w, bias, x, y);
  }
  void AddBias(const Weight& bias, Mat y) override {
    Stage s(*this);
    backend_->AddBias(s.In(bias), s.Out(y));
  }
  void Scale(float factor, Mat x) override {
    Stage s(*this);
    backend_->Scale(factor, s.Out(x));
  }
  void ScaleRows(std::span<const float> factors, Mat x) override {
    Stage s(*this);
    backend_->ScaleRows(factors, s.Out(x));
  }
  void SigmoidGate(Mat gate, Mat x) override {
    Stage s(*this);
    const Mat to = s.Out(x);
    backend_->SigmoidGate(s.In(gate), to);
  }
  void SoftCap(float cap, Mat x) override {
    Stage s(*this);
    backend_->SoftCap(cap, s.Out(x));
  }
  void Clamp(float limit, Mat x) override {
    Stage s(*this);
    backend_->Clamp(limit, s.Out(x));
  }
  void CopyColumns(Mat from, int64_t from_column, int64_t width, int heads, Mat to,
                   int64_t to_column) override {
    Stage s(*this);
    backend_->CopyColumns(s.In(from), from_column, width, heads, s.Out(to), to_column);
  }
  void Rope(const RopeSpec& rope, const StepBatch& batch, int head_dim, Mat x) override {
    Stage s(*this);
    backend_->Rope(rope, batch, head_dim, s.Out(x));
  }
  void AppendKv(const StepBatch& batch, int layer, Mat k, Mat v, const KvView& kv) override {
    Stage s(*this);
    backend_->AppendKv(batch, layer, s.In(k), s.In(v), s.All(kv, batch));
  }
  void Attention(const AttentionSpec& spec, const StepBatch& batch, int layer, Mat q,
                 const KvView& kv, Mat out) override {
    Stage s(*this);
    backend_->Attention(spec, batch, layer, s.In(q), s.All(kv, batch), s.Out(out));
  }
  void Activate(const ActivationSpec& activation, Mat gate, Mat up, Mat out) override {
    Stage s(*this);
    const Mat to = s.Out(out);
    backend_->Activate(activation, s.In(gate), s.In(up), to);
  }
  void Gelu(Mat x) override {
    Stage s(*this);
    backend_->Gelu(s.Out(x));
  }
  void Add(Mat x, Mat y) override {
    Stage s(*this);
    backend_->Add(s.In(x), s.Out(y));
  }
  void SelectExperts(const GateSpec& spec, Mat logits, ExpertSelection* selection) override {
    Stage s(*this);
    backend_->SelectExperts(spec, s.In(logits), selection);
  }
  void ExpertFfn(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x,
                 Mat out) override {
    Stage s(*this);
    std::vector<ExpertTask> staged(tasks.begin(), tasks.end());
    for (ExpertTask& task : staged) {
      if (task.on_host) continue;
      task.slot = s.Bytes(const_cast<std::byte*>(task.slot), layout.bytes, false);
    }
    backend_->ExpertFfn(layout, staged, s.In(x), s.Out(out));
  }
  size_t ExpertScratchBytes(const ExpertLayout& layout, int64_t entries,
                            int64_t experts) const override {
    return backend_->ExpertScratchBytes(layout, entries, experts);
  }
  void CombineExperts(const ExpertSelection& selection, Mat x, Mat y) override {
    Stage s(*this);
    backend_->CombineExperts(selection, s.In(x), s.Out(y));
  }
  void AddWeightless(const WeightlessExperts& experts, const ExpertSelection& selection, Mat mix,
                     Mat x, Mat y) override {
    Stage s(*this);
    const WeightlessExperts staged = {experts.first, s.In(experts.constants)};
    backend_->AddWeightless(staged, selection, s.In(mix), s.In(x), s.Out(y));
  }
  void GatedDelta(const DeltaNetSpec& spec, const StepBatch& batch, size_t state_offset, Mat mixed,
                  Mat beta, Mat decay, const StateView& state, Mat out) override {
    Stage s(*this);
    int32_t last = 0;
    for (const auto& sequence : batch.sequences) last = std::max(last, sequence.state);
    const StateView all = {s.Bytes(state.data, state.slot_bytes * (last + 1), true),
                           state.slot_bytes};
    backend_->GatedDelta(spec, batch, state_offset, s.In(mixed), s.In(beta), s.In(decay), all,
                         s.Out(out));
  }
  void Zero(Mat x) override {
    Stage s(*this);
    backend_->Zero(s.Out(x));
  }
  void GatherRows(Mat from, std::span<const int32_t> rows, Mat to) override {
    Stage s(*this);
    backend_->GatherRows(s.In(from), rows, s.Out(to));
  }
  int MostStrongest() const override { return backend_->MostStrongest(); }
  void Strongest(Mat x, int count, LogitCandidate* strongest) override {
    Stage s(*this);
    backend_->Strongest(s.In(x), count, strongest);
  }
  absl::Status ReadBack(Mat from, float* to) override {
    Stage s(*this);
    return backend_->ReadBack(s.In(from), to);
  }

 private:
  // One operation's copies. Outputs are read back at its end.
  class Stage {
   public:
    explicit Stage(StagedBackend& backend) : backend_(*backend.backend_) {}
    ~Stage() {
      for (const Copy& copy : copies_) {
        if (!copy.output) continue;
        const int64_t floats = static_cast<int64_t>((copy.bytes + 3) / 4);
        std::vector<float> read(static_cast<size_t>(floats));
        const Mat device = {reinterpret_cast<float*>(copy.device->data()), 1, floats};
        const absl::Status status = backend_.ReadBack(device, read.data());
        EXPECT_TRUE(status.ok()) << status;
        std::copy_n(reinterpret_cast<const std::byte*>(read.data()), copy.bytes, copy.host);
      }
      const absl::Status status = backend_.ReadBack({}, nullptr);
      EXPECT_TRUE(status.ok()) << status;
    }

    std::byte* Bytes(std::byte* host, size_t bytes, bool output) {
      if (bytes == 0) return nullptr;
      for (const Copy& copy : copies_) {
        if (host >= copy.host && host + bytes <= copy.host + copy.bytes) {
          return copy.device->data() + (host - copy.host);
        }
      }
      auto device = backend_.Allocate((bytes + 3) / 4 * 4);
      if (!device.ok()) {
        ADD_FAILURE() << device.status();
        return nullptr;
      }
      // Values of one byte are copied as they are.
      const Weight whole = {DType::kF8E4M3, 1, static_cast<int64_t>(bytes), host};
      backend_.Convert(whole, 0, whole, (*device)->data());
      copies_.push_back({host, bytes, *std::move(device), output});
      return copies_.back().device->data();
    }
    Mat In(Mat x) { return Staged(x, false); }
    Mat Out(Mat x) { return Staged(x, true); }
    Weight In(Weight w) {
      if (w.data != nullptr) w.data = Bytes(const_cast<std::byte*>(w.data), w.bytes(), false);
      return w;
    }
    KvView All(KvView kv, const StepBatch& batch) {
      int32_t last = -1;
      for (const auto& sequence : batch.sequences) {
        for (const int32_t block : sequence.blocks) last = std::max(last, block);
      }
      kv.data = Bytes(kv.data, kv.layout.block_bytes() * (last + 1), true);
      return kv;
    }

   private:
    struct Copy {
      std::byte* host;
      size_t bytes;
      std::unique_ptr<Buffer> device;
      bool output;
    };
    Mat Staged(Mat x, bool output) {
      const size_t bytes = static_cast<size_t>(x.rows * x.cols) * sizeof(float);
      x.data = reinterpret_cast<float*>(
          Bytes(reinterpret_cast<std::byte*>(x.data), x.data == nullptr ? 0 : bytes, output));
      return x;
    }
    Backend& backend_;
    std::vector<Copy> copies_;
  };

  std::unique_ptr<Backend> backend_;
};

}  // namespace hostler::testing
