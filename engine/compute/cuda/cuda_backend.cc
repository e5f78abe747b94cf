#include "engine/compute/cuda/cuda_backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/base/cores.h"
#include "engine/base/status.h"
#include "engine/compute/convert_weight.h"
#include "engine/compute/cuda/device_memory.h"
#include "engine/compute/cuda/experts.h"
#include "engine/compute/cuda/hbm_tier.h"
#include "engine/compute/cuda/host_share.h"
#include "engine/compute/cuda/integers.h"
#include "engine/compute/cuda/kernels.h"
#include "engine/compute/cuda/launch.h"
#include "engine/compute/cuda/parameters.h"
#include "fmt/format.h"

namespace hostler {
namespace {

class CudaBuffer : public Buffer {
 public:
  CudaBuffer(DevicePtr memory, size_t bytes) : memory_(std::move(memory)), bytes_(bytes) {}
  std::byte* data() override { return memory_.get(); }
  size_t bytes() const override { return bytes_; }
  void Discard(size_t, size_t) override {}  // device memory is taken whole

 private:
  DevicePtr memory_;
  size_t bytes_;
};

class CudaBackend : public Backend {
 public:
  CudaBackend(int device, const CudaOptions& options, int host_threads)
      : device_(device),
        graphs_(options.graphs),
        integers_(options.kernels.empty()),
        host_share_(&launcher_, &parameters_, integers_, host_threads) {}
  ~CudaBackend() override {
    if (stream_ != nullptr) cudaStreamSynchronize(stream_.get());
  }

  absl::Status Start() {
    Enter();
    HOSTLER_ASSIGN_OR_RETURN(stream_, NewStream(/*priority=*/0));
    launcher_.stream = stream_.get();
    if (graphs_) launcher_.Gather();
    HOSTLER_ASSIGN_OR_RETURN(slot_use_, SlotUse::Create());
    int major = 0, minor = 0;
    launcher_.Check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_));
    launcher_.Check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device_));
    name_ = fmt::format("cuda-sm{}{}", major, minor);
    return CudaStatus(launcher_.TakeError(), "device attributes");
  }

  std::string_view name() const override { return name_; }
  bool SharesHostMemory() const override { return false; }
  std::optional<DeviceMemory> memory() const override {
    Enter();
    DeviceMemory memory;
    // None is a device that is gone: what is allocated next says so.
    if (cudaMemGetInfo(&memory.free, &memory.total) != cudaSuccess) cudaGetLastError();
    return memory;
  }
  GraphCounts graph_counts() const override { return launcher_.graph_counts(); }
  bool Interleaves(DType) const override { return false; }

  void Convert(const Weight& from, int64_t first, const Weight& to, std::byte* out) override;

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    Enter();
    HOSTLER_ASSIGN_OR_RETURN(DevicePtr memory, NewDeviceMemory(bytes));
    const cudaError_t error = cudaMemsetAsync(memory.get(), 0, bytes, stream_.get());
    if (error != cudaSuccess) return CudaStatus(error, "clearing memory");
    return std::make_unique<CudaBuffer>(std::move(memory), bytes);
  }

  absl::StatusOr<std::unique_ptr<Tier>> NewTier(std::span<const SlotClass> classes) override {
    Enter();
    return NewHbmTier(classes, device_, slot_use_);
  }

  absl::StatusOr<std::unique_ptr<Tier>> NewHostTier(std::span<const SlotClass> classes) override {
    return NewPinnedTier(classes, device_);
  }

  void Embed(const Weight& table, std::span<const int32_t> ids, Mat out) override {
    Enter();
    LaunchEmbed(launcher_, table, parameters_.Put(ids), out);
  }
  void RmsNorm(Mat x, const Weight& gain, float eps, Mat out) override {
    LaunchRmsNorm(launcher_, x, gain, eps, out);
  }
  void LayerNorm(Mat x, const Weight& gain, const Weight& bias, float eps, Mat out) override {
    LaunchLayerNorm(launcher_, x, gain, bias, eps, out);
  }
  void MatMul(const Weight& w, Mat x, Mat y) override { HeadMatMul(w, 1, x, y); }
  void HeadMatMul(const Weight& w, int heads, Mat x, Mat y) override {
    MatMulTask task;
    task.type = w.dtype;
    task.w = reinterpret_cast<const uint8_t*>(w.data);
    task.w_bytes = w.bytes();
    task.rows = w.rows / heads;
    task.cols = w.cols;
    task.x = x.data;
    task.x_stride = x.cols;
    task.y = y.data;
    task.y_stride = y.cols;
    task.tokens = task.x_rows = task.y_rows = x.rows;
    task.heads = heads;
    if (!integers_ || !HasIntegers(w.dtype)) return LaunchMatMul(launcher_, task);
    IntegerInputs inputs = {nullptr, x.rows * heads, w.cols};
    inputs.data = reinterpret_cast<std::byte*>(DeviceFloats(inputs_, inputs.bytes()));
    LaunchQuantizeInputs(launcher_, x.data, inputs.rows, nullptr, nullptr, inputs);
    LaunchIntegerMatMul(launcher_, task, inputs);
  }
  bool HasMatMulBf16() const override { return false; }
  void MatMulBf16(const Bf16Tiles&, const float*, Mat, Mat) override { std::abort(); }

  void AddBias(const Weight& bias, Mat y) override { LaunchAddBias(launcher_, bias, y); }
  void Scale(float factor, Mat x) override { LaunchScale(launcher_, factor, x); }
  void ScaleRows(std::span<const float> factors, Mat x) override {
    LaunchScaleRows(launcher_, parameters_.Put(factors), x);
  }
  void SigmoidGate(Mat gate, Mat x) override { LaunchSigmoidGate(launcher_, gate, x); }
  void SoftCap(float cap, Mat x) override { LaunchSoftCap(launcher_, cap, x); }
  void Clamp(float limit, Mat x) override { LaunchClamp(launcher_, limit, x); }
  void CopyColumns(Mat from, int64_t from_column, int64_t width, int heads, Mat to,
                   int64_t to_column) override {
    LaunchCopyColumns(launcher_, from, from_column, width, heads, to, to_column);
  }

  void Rope(const RopeSpec& rope, const StepBatch& batch, int head_dim, Mat x) override {
    DeviceRope spec;
    spec.inv_freq = parameters_.Keep(rope.inv_freq);
    spec.long_inv_freq = parameters_.Keep(rope.long_inv_freq);
    spec.pairs = static_cast<int>(rope.inv_freq.size());
    spec.short_context = rope.short_context;
    spec.first = rope.first;
    spec.interleaved = rope.interleaved;
    spec.scale = rope.scale;
    spec.long_scale = rope.long_scale;
    LaunchRope(launcher_, spec, parameters_.Batch(batch), head_dim, x);
  }
  void AppendKv(const StepBatch& batch, int layer, Mat k, Mat v, const KvView& kv) override {
    LaunchAppendKv(launcher_, parameters_.Batch(batch), layer, k, v, kv);
  }
  void Attention(const AttentionSpec& spec, const StepBatch& batch, int layer, Mat q,
                 const KvView& kv, Mat out) override {
    const bool fits = kv.layout.k_dim <= kMostKeyDim && kv.layout.v_dim <= kMostValueDim;
    if (!fits && !launcher_.Check(cudaErrorInvalidValue)) return;
    const DeviceAttention attention = {spec.heads, spec.scale,    spec.window,
                                       spec.chunk, spec.soft_cap, parameters_.Keep(spec.sinks)};
    const DeviceBatch on_device = parameters_.Batch(batch);
    const size_t floats = AttentionScratchFloats(attention, on_device, kv.layout);
    float* const scratch = floats == 0 ? nullptr : DeviceFloats(attended_, floats * sizeof(float));
    LaunchAttention(launcher_, attention, on_device, layer, q, kv, scratch, out);
  }

  void Activate(const ActivationSpec& activation, Mat gate, Mat up, Mat out) override {
    LaunchActivate(launcher_, activation, gate, up, out);
  }
  void Gelu(Mat x) override { LaunchGelu(launcher_, x); }
  void Add(Mat x, Mat y) override { LaunchAdd(launcher_, x, y); }

  void SelectExperts(const GateSpec& spec, Mat logits, ExpertSelection* selection) override;
  void ExpertFfn(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x,
                 Mat out) override {
    // What comes before and after is like the last step's, whichever experts are here.
    launcher_.Flush();
    host_share_.Begin(tasks, x);
    experts_.Run(layout, tasks, x, out);
    launcher_.Flush();
    // Also after an error: what was queued before it uses slots.
    used_slots_.clear();
    for (const ExpertTask& task : tasks) used_slots_.push_back(task.slot);
    launcher_.Check(slot_use_->Record(stream_.get(), used_slots_));
    host_share_.End(layout, tasks, x, out);
  }
  size_t ExpertScratchBytes(const ExpertLayout& layout, int64_t entries, int64_t) const override {
    return experts_.ScratchBytes(layout, entries);
  }
  void CombineExperts(const ExpertSelection& selection, Mat x, Mat y) override {
    LaunchCombine(launcher_, parameters_.Put(std::span<const int32_t>(selection.offsets)),
                  parameters_.Put(std::span<const float>(selection.weights)), x, y);
  }
  void AddWeightless(const WeightlessExperts& experts, const ExpertSelection& selection, Mat mix,
                     Mat x, Mat y) override {
    WeightlessTask task;
    task.offsets = parameters_.Put(std::span<const int32_t>(selection.offsets));
    task.experts = parameters_.Put(std::span<const int32_t>(selection.experts));
    task.weights = parameters_.Put(std::span<const float>(selection.weights));
    task.first = experts.first;
    task.constants = reinterpret_cast<const float*>(experts.constants.data);
    task.constant_count = static_cast<int>(experts.constants.rows);
    LaunchWeightless(launcher_, task, mix, x, y);
  }

  void GatedDelta(const DeltaNetSpec& spec, const StepBatch& batch, size_t state_offset, Mat mixed,
                  Mat beta, Mat decay, const StateView& state, Mat out) override {
    float* convolved =
        DeviceFloats(convolved_, static_cast<size_t>(mixed.rows * mixed.cols) * sizeof(float));
    const DeviceDeltaNet net = {spec.key_heads,
                                spec.value_heads,
                                spec.key_dim,
                                spec.value_dim,
                                spec.kernel,
                                spec.mixed_dim(),
                                parameters_.Keep(spec.conv),
                                parameters_.Keep(spec.a_log),
                                parameters_.Keep(spec.dt_bias)};
    LaunchGatedDelta(launcher_, net, parameters_.Batch(batch), state_offset, mixed, beta, decay,
                     state, convolved, out);
  }

  void Zero(Mat x) override { LaunchZero(launcher_, x); }
  void GatherRows(Mat from, std::span<const int32_t> rows, Mat to) override {
    LaunchGatherRows(launcher_, from, parameters_.Put(rows), to);
  }

  int MostStrongest() const override { return kMostStrongest; }
  void Strongest(Mat x, int count, LogitCandidate* strongest) override;

  absl::Status ReadBack(Mat from, float* to) override {
    const size_t bytes = RangeOf(from).bytes;
    const size_t key_bytes = strongest_.count * sizeof(StrongKey);
    const std::byte* read = CopyBack({{strongest_.keys, key_bytes}, {from.data, bytes}});
    if (read != nullptr) {
      for (size_t i = 0; i < strongest_.count; ++i) {
        strongest_.to[i] = CandidateOf(reinterpret_cast<const StrongKey*>(read)[i]);
      }
      if (bytes > 0) std::memcpy(to, read + key_bytes, bytes);
    }
    strongest_ = {};
    return CudaStatus(launcher_.TakeError(), "an operation of the step failed");
  }

 private:
  static constexpr size_t kStagingBytes = size_t{4} << 20;

  // A thread's device is the first one until it says otherwise.
  void Enter() const {
    thread_local int entered = 0;
    if (entered != device_ && cudaSetDevice(device_) == cudaSuccess) entered = device_;
  }

  float* DeviceFloats(Growing<DevicePtr>& memory, size_t bytes) {
    if (memory.bytes < bytes) launcher_.Synchronize();  // what is freed may be in use
    std::byte* data = memory.Reserve(bytes, NewDeviceMemory);
    if (data == nullptr) launcher_.Check(cudaErrorMemoryAllocation);
    return reinterpret_cast<float*>(data);
  }

  // Waits for all work before it; what was copied, one after another in pinned memory, or
  // null after an error.
  const std::byte* CopyBack(std::initializer_list<DeviceRange> ranges) {
    size_t bytes = 0;
    for (const DeviceRange& range : ranges) bytes += range.bytes;
    std::byte* to = read_.Reserve(bytes, NewPinnedMemory);
    if (to == nullptr && bytes > 0) launcher_.Check(cudaErrorMemoryAllocation);
    launcher_.Flush();
    std::byte* at = to;
    for (const DeviceRange& range : ranges) {
      if (!launcher_.ok() || range.bytes == 0) continue;
      launcher_.Check(
          cudaMemcpyAsync(at, range.data, range.bytes, cudaMemcpyDeviceToHost, stream_.get()));
      at += range.bytes;
    }
    launcher_.Synchronize();
    if (!launcher_.ok()) return nullptr;
    CheckHostRead(to, bytes);
    return to;
  }

  const int device_;
  const bool graphs_, integers_;
  std::string name_;
  StreamPtr stream_;
  Launcher launcher_;
  Parameters parameters_{&launcher_};
  CudaExperts experts_{&launcher_, &parameters_, integers_};
  HostShare host_share_;
  std::shared_ptr<SlotUse> slot_use_;
  std::vector<const std::byte*> used_slots_;
  Growing<DevicePtr> attended_, convolved_, chosen_, inputs_, strong_keys_;
  // What the next ReadBack brings.
  struct {
    const StrongKey* keys = nullptr;
    size_t count = 0;
    LogitCandidate* to = nullptr;
  } strongest_;
  Growing<PinnedPtr> read_;
  Growing<PinnedPtr> staging_[2];
  EventPtr staged_[2];
};

// In parts that begin with a panel, each converted while the one before is copied.
void CudaBackend::Convert(const Weight& from, int64_t first, const Weight& to, std::byte* out) {
  Enter();
  const size_t row_bytes = RowBytes(to.dtype, to.cols);
  const int64_t rows = std::max<int64_t>(
      static_cast<int64_t>(kStagingBytes / row_bytes) / kInterleavedRows * kInterleavedRows,
      kInterleavedRows);
  const size_t part_bytes = static_cast<size_t>(std::min(rows, to.rows)) * row_bytes;
  launcher_.Flush();
  if (!launcher_.ok()) return;
  for (int i = 0; i < 2; ++i) {
    if (staged_[i] == nullptr) {
      auto staged = NewEvent();
      if (!staged.ok()) return void(launcher_.Check(cudaErrorMemoryAllocation));
      staged_[i] = *std::move(staged);
    }
    // What is outgrown may still be copied from.
    if (staging_[i].bytes < part_bytes) launcher_.Synchronize();
    if (staging_[i].Reserve(std::max(part_bytes, kStagingBytes), NewPinnedMemory) == nullptr) {
      return void(launcher_.Check(cudaErrorMemoryAllocation));
    }
  }
  int side = 0;
  for (int64_t row = 0; row < to.rows && launcher_.ok(); row += rows, side = 1 - side) {
    Weight part = to;
    part.rows = std::min(rows, to.rows - row);
    if (!launcher_.Check(cudaEventSynchronize(staged_[side].get()))) break;
    std::byte* staging = staging_[side].memory.get();
    CheckHostWrite(staging, part.bytes());
    ConvertWeight(from, first + row, part, staging);
    launcher_.Check(cudaMemcpyAsync(out + static_cast<size_t>(row) * row_bytes, staging,
                                    part.bytes(), cudaMemcpyHostToDevice, stream_.get()));
    launcher_.Check(cudaEventRecord(staged_[side].get(), stream_.get()));
  }
}

void CudaBackend::SelectExperts(const GateSpec& spec, Mat logits, ExpertSelection* selection) {
  const size_t rows = static_cast<size_t>(logits.rows);
  GateTask task;
  task.score = spec.score;
  task.experts = static_cast<int>(logits.cols);
  task.k = std::clamp(spec.top_k, 0, task.experts);
  task.top_p = spec.top_p;
  task.bias = parameters_.Keep(spec.bias);
  task.groups = spec.top_groups < spec.groups ? spec.groups : 1;
  task.top_groups = spec.top_groups;
  task.best_two = spec.group_score == GateSpec::GroupScore::kBestTwo;
  task.normalize = spec.normalize;
  task.least_sum = spec.least_sum;
  task.sum_epsilon = spec.sum_epsilon;
  task.scale = spec.scale;
  task.jitter = spec.jitter;
  task.idle = spec.idle;
  selection->offsets.assign(rows + 1, 0);
  selection->experts.clear();
  selection->weights.clear();
  const size_t entries = rows * static_cast<size_t>(task.k);
  if (entries == 0) return;
  if (task.experts > kMostGateExperts && !launcher_.Check(cudaErrorInvalidValue)) return;
  const size_t bytes = (rows + 2 * entries) * sizeof(int32_t);
  auto* counts = reinterpret_cast<int32_t*>(DeviceFloats(chosen_, bytes));
  if (counts == nullptr) return;
  task.counts = counts;
  task.chosen = counts + rows;
  task.weights = reinterpret_cast<float*>(counts + rows + entries);
  LaunchGate(launcher_, task, logits);
  const std::byte* read = CopyBack({{counts, bytes}});
  if (read == nullptr) return;  // no row chooses any; ReadBack will say why
  const auto* host_counts = reinterpret_cast<const int32_t*>(read);
  const int32_t* chosen = host_counts + rows;
  const auto* weights = reinterpret_cast<const float*>(chosen + entries);
  for (size_t r = 0; r < rows; ++r) {
    const size_t at = r * static_cast<size_t>(task.k);
    selection->experts.insert(selection->experts.end(), chosen + at, chosen + at + host_counts[r]);
    selection->weights.insert(selection->weights.end(), weights + at,
                              weights + at + host_counts[r]);
    selection->offsets[r + 1] = static_cast<int32_t>(selection->experts.size());
  }
}

void CudaBackend::Strongest(Mat x, int count, LogitCandidate* strongest) {
  if (x.rows == 0 || count == 0) return;
  const size_t keys = static_cast<size_t>(StrongestScratchKeys(x.rows, x.cols, count));
  float* const scratch = DeviceFloats(strong_keys_, keys * sizeof(StrongKey));
  if (scratch == nullptr) return;
  strongest_.keys = LaunchStrongest(launcher_, x, count, reinterpret_cast<StrongKey*>(scratch));
  strongest_.count = static_cast<size_t>(x.rows * count);
  strongest_.to = strongest;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(int device, const CudaOptions& options) {
  if (!options.kernels.empty() && options.kernels != "f32") {
    return absl::InvalidArgumentError(
        fmt::format("no kernels \"{}\" for a GPU; it has f32", options.kernels));
  }
  int devices = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess) {
    return absl::NotFoundError(std::string(CudaStatus(error, "no usable device").message()));
  }
  if (device < 0 || device >= devices) {
    return absl::NotFoundError(fmt::format("CUDA device {}: there are {}", device, devices));
  }
  const int host_threads = options.host_threads > 0 ? options.host_threads : UsableCores();
  auto backend = std::make_unique<CudaBackend>(device, options, host_threads);
  HOSTLER_RETURN_IF_ERROR(backend->Start());
  return backend;
}

}  // namespace hostler
