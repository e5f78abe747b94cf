#include "engine/model/moe.h"

#include <string>
#include <vector>

#include "cache/expert_cache.h"

namespace hostler {
namespace {

// A step's rows by the expert they chose.
class ExpertGroups {
 public:
  void Reserve(int rows, int entries, int experts) {
    offsets_.reserve(experts + 2);
    rows_.reserve(entries);
    entries_.reserve(entries);
    scales_.reserve(entries);
    wanted_.reserve(experts);
    tasks_.reserve(experts);
    seconds_.resize(experts);
    selection.offsets.reserve(rows + 1);
    selection.experts.reserve(entries);
    selection.weights.reserve(entries);
    weightless.offsets.reserve(rows + 1);
    weightless.experts.reserve(entries);
    weightless.weights.reserve(entries);
  }

  // Groups `selection`, rows ascending within each expert, so that what an
  // expert computes does not depend on when it arrives.
  void Group(int rows, int experts);

  std::span<const int> wanted() const { return wanted_; }  // experts with a row
  std::span<const int32_t> rows_of(int expert) const {
    return {rows_.data() + offsets_[expert], size_of(expert)};
  }
  ExpertTask TaskOf(int expert, const std::byte* slot, bool weigh_input) const {
    const size_t first = offsets_[expert];
    ExpertTask task{slot, rows_of(expert), {entries_.data() + first, size_of(expert)}, {}};
    if (weigh_input) task.in_scales = {scales_.data() + first, size_of(expert)};
    return task;
  }
  std::vector<ExpertTask>& tasks() { return tasks_; }
  // [experts] What the host took for each.
  double& seconds(int expert) { return seconds_[expert]; }

  // Moves the entries of experts from `first` on to `weightless`.
  void SplitWeightless(int first);

  ExpertSelection selection, weightless;

 private:
  size_t size_of(int expert) const { return offsets_[expert + 1] - offsets_[expert]; }

  std::vector<int32_t> offsets_;  // [experts + 1], into the three below
  std::vector<int32_t> rows_, entries_;
  std::vector<float> scales_;
  std::vector<int> wanted_;
  std::vector<ExpertTask> tasks_;
  std::vector<double> seconds_;
};

void ExpertGroups::Group(int rows, int experts) {
  const int entries = selection.offsets[rows];
  offsets_.assign(experts + 1, 0);
  for (int e = 0; e < entries; ++e) ++offsets_[selection.experts[e] + 1];
  wanted_.clear();
  for (int x = 0; x < experts; ++x) {
    if (offsets_[x + 1] > 0) wanted_.push_back(x);
    offsets_[x + 1] += offsets_[x];
  }
  rows_.resize(entries);
  entries_.resize(entries);
  scales_.resize(entries);
  // Filling from the back leaves each offset at its group's start.
  for (int row = rows - 1; row >= 0; --row) {
    for (int e = selection.offsets[row + 1] - 1; e >= selection.offsets[row]; --e) {
      const int place = --offsets_[selection.experts[e] + 1];
      rows_[place] = row;
      entries_[place] = e;
      scales_[place] = selection.weights[e];
    }
  }
  offsets_.erase(offsets_.begin());
  offsets_.push_back(entries);
}

void ExpertGroups::SplitWeightless(int first) {
  weightless.offsets.assign(1, 0);
  weightless.experts.clear();
  weightless.weights.clear();
  int kept = 0, entry = 0;
  for (size_t row = 1; row < selection.offsets.size(); ++row) {
    for (; entry < selection.offsets[row]; ++entry) {
      if (selection.experts[entry] >= first) {
        weightless.experts.push_back(selection.experts[entry]);
        weightless.weights.push_back(selection.weights[entry]);
      } else {
        selection.experts[kept] = selection.experts[entry];
        selection.weights[kept++] = selection.weights[entry];
      }
    }
    selection.offsets[row] = kept;
    weightless.offsets.push_back(static_cast<int32_t>(weightless.experts.size()));
  }
  selection.experts.resize(kept);
  selection.weights.resize(kept);
}

class MoeLayer : public FeedForward {
 public:
  MoeLayer(const MoeConfig& config, int index, const ExpertLayout& layout,
           const std::string& prefix, TensorBinder& binder);

  void Place(WorkArena& arena, int64_t rows) override;
  size_t ScratchBytes(const Backend& backend, int64_t rows) const override;
  void Forward(const StepContext& step, Mat x, Mat out) override;
  void Choose(Backend& backend, Mat x, Mat logits, ExpertSelection* selection) override;

 private:
  void ForwardShared(const StepContext& step, Mat x, Mat out);
  void BindGate(const std::string& prefix, TensorBinder& binder);
  void BindConstants(const std::string& prefix, TensorBinder& binder);
  void MatMulGate(Backend& backend, Mat x, Mat logits);
  Mat GateLogits(const StepContext& step, Mat x);
  void AddWeightless(const StepContext& step, Mat x, Mat out);
  // Experts that are resident compute while others are read.
  void ForwardExperts(const StepContext& step, Mat x);

  MoeConfig config_;
  const int index_;
  const ExpertLayout layout_;
  Weight gate_, gate_bias_, gate_map_;
  WeightlessExperts weightless_;
  Weight constant_mix_;  // [2 * constants, dim]
  std::unique_ptr<GatedMlp> shared_;
  Weight shared_gate_;

  ExpertGroups groups_;
  Mat logits_, mapped_, mix_, shared_logit_, expert_outputs_;
};

MoeLayer::MoeLayer(const MoeConfig& config, int index, const ExpertLayout& layout,
                   const std::string& prefix, TensorBinder& binder)
    : config_(config), index_(index), layout_(layout) {
  weightless_.first = config.experts;
  BindGate(prefix, binder);
  if (config.constants > 0) BindConstants(prefix + "experts.", binder);
  if (config.shared.has_value()) {
    shared_ = std::make_unique<GatedMlp>(*config.shared, prefix + config.shared_name, binder);
    if (config.shared_gate) {
      shared_gate_ = binder.MatrixAsStored(prefix + "shared_expert_gate.weight", 1, config.dim);
    }
  }
}

void MoeLayer::BindGate(const std::string& prefix, TensorBinder& binder) {
  const int choices = config_.choices();
  const std::string name = prefix + config_.gate_name;
  gate_ = binder.MatrixAsStored(name + ".weight", choices, config_.dim);
  if (config_.gate_bias) gate_bias_ = binder.Vector(name + ".bias", choices);
  if (config_.gate_residual && index_ > 0) {
    gate_map_ = binder.MatrixAsStored(name + ".gate_map.weight", choices, choices);
  }
  if (!config_.correction_bias.empty()) {
    config_.gate.bias = binder.Floats(prefix + config_.correction_bias, choices);
  }
}

// Each as MoE++ names it, after the experts with matrices: "experts.8.constant"
// and "experts.8.wg.weight", the two rows that say how much of what.
void MoeLayer::BindConstants(const std::string& prefix, TensorBinder& binder) {
  std::vector<float> constants, mix;
  for (int c = 0; c < config_.constants; ++c) {
    const std::string name = prefix + std::to_string(config_.experts + c);
    const std::vector<float> constant = binder.Floats(name + ".constant", config_.dim);
    const std::vector<float> rows = binder.Floats(name + ".wg.weight", 2, config_.dim);
    constants.insert(constants.end(), constant.begin(), constant.end());
    mix.insert(mix.end(), rows.begin(), rows.end());
  }
  weightless_.constants =
      binder.MakeUnquantized(constants, DType::kF32, config_.constants, config_.dim);
  constant_mix_ = binder.MakeUnquantized(mix, DType::kF32, 2 * config_.constants, config_.dim);
}

void MoeLayer::Place(WorkArena& arena, int64_t rows) {
  const int64_t entries = rows * config_.gate.top_k;
  logits_ = arena.Matrix(rows, config_.choices());
  if (gate_map_.rows > 0) mapped_ = arena.Matrix(rows, config_.choices());
  mix_ = arena.Matrix(rows, 2 * config_.constants);
  shared_logit_ = arena.Matrix(rows, 1);
  expert_outputs_ = arena.Matrix(entries, config_.dim);
  if (shared_ != nullptr) shared_->Place(arena, rows);
  groups_.Reserve(static_cast<int>(rows), static_cast<int>(entries), config_.experts);
}

size_t MoeLayer::ScratchBytes(const Backend& backend, int64_t rows) const {
  return backend.ExpertScratchBytes(layout_, rows * config_.gate.top_k, config_.experts);
}

void MoeLayer::ForwardShared(const StepContext& step, Mat x, Mat out) {
  if (shared_ == nullptr) {
    step.backend.Zero(out);
    return;
  }
  shared_->Forward(step, x, out);
  if (!config_.shared_gate) return;
  const Mat logit = shared_logit_.first_rows(x.rows);
  step.backend.MatMul(shared_gate_, x, logit);
  step.backend.SigmoidGate(logit, out);
}

void MoeLayer::ForwardExperts(const StepContext& step, Mat x) {
  ExpertCache::Acquisition acquisition = step.cache->Acquire(
      {index_, groups_.wanted(), groups_.selection.offsets, groups_.selection.experts,
       static_cast<int>(step.batch.sequences.size()), step.batch.decodes()});
  step.ReadAhead(index_ + 1, GateLookahead::From::kLayerBefore);
  for (std::span<const AcquiredExpert> ready = acquisition.Next(); !ready.empty();
       ready = acquisition.Next()) {
    std::vector<ExpertTask>& tasks = groups_.tasks();
    tasks.clear();
    for (const AcquiredExpert& expert : ready) {
      if (expert.data != nullptr) {
        tasks.push_back(groups_.TaskOf(expert.expert, expert.data, config_.weigh_input));
        tasks.back().on_host = expert.on_host;
        tasks.back().seconds = &(groups_.seconds(expert.expert) = 0);
        continue;
      }
      for (const int32_t row : groups_.rows_of(expert.expert)) {
        step.result->FailRow(row, static_cast<int>(x.rows), expert.status);
      }
    }
    step.backend.ExpertFfn(layout_, tasks, x, expert_outputs_);
    for (const AcquiredExpert& expert : ready) {
      if (!expert.on_host) continue;
      step.cache->OnHostWork(index_, static_cast<int>(groups_.rows_of(expert.expert).size()),
                             groups_.seconds(expert.expert));
    }
  }
}

void MoeLayer::MatMulGate(Backend& backend, Mat x, Mat logits) {
  backend.MatMul(gate_, x, logits);
  if (config_.gate_bias) backend.AddBias(gate_bias_, logits);
}

Mat MoeLayer::GateLogits(const StepContext& step, Mat x) {
  Backend& backend = step.backend;
  const Mat logits = logits_.first_rows(x.rows);
  MatMulGate(backend, x, logits);
  if (!config_.gate_residual) return logits;
  if (gate_map_.data != nullptr) {
    const Mat mapped = mapped_.first_rows(x.rows);
    backend.MatMul(gate_map_, step.gate_logits, mapped);
    backend.Add(mapped, logits);
  }
  backend.CopyColumns(logits, 0, logits.cols, 1, step.gate_logits, 0);
  return logits;
}

void MoeLayer::Choose(Backend& backend, Mat x, Mat logits, ExpertSelection* selection) {
  MatMulGate(backend, x, logits);
  backend.SelectExperts(config_.gate, logits, selection);
}

void MoeLayer::AddWeightless(const StepContext& step, Mat x, Mat out) {
  if (groups_.weightless.experts.empty()) return;
  const Mat mix = mix_.first_rows(x.rows);
  if (config_.constants > 0) step.backend.MatMul(constant_mix_, x, mix);
  step.backend.AddWeightless(weightless_, groups_.weightless, mix, x, out);
}

void MoeLayer::Forward(const StepContext& step, Mat x, Mat out) {
  Backend& backend = step.backend;
  backend.SelectExperts(config_.gate, GateLogits(step, x), &groups_.selection);
  if (config_.constants + config_.copies > 0) groups_.SplitWeightless(config_.experts);
  groups_.Group(static_cast<int>(x.rows), config_.experts);
  if (step.result->trace != nullptr) step.result->trace->Record(index_, groups_.selection);
  if (step.lookahead != nullptr) step.lookahead->Learn(index_, groups_.selection);

  ForwardShared(step, x, out);
  AddWeightless(step, x, out);
  ForwardExperts(step, x);
  if (config_.weigh_input) {
    groups_.selection.weights.assign(groups_.selection.weights.size(), 1.0f);
  }
  // In the gate's order, whatever order the experts arrived in.
  backend.CombineExperts(groups_.selection, expert_outputs_, out);
}

}  // namespace

std::unique_ptr<FeedForward> NewMoe(const MoeConfig& config, int index, const ExpertLayout& layout,
                                    const std::string& prefix, TensorBinder& binder) {
  return std::make_unique<MoeLayer>(config, index, layout, prefix, binder);
}

}  // namespace hostler
