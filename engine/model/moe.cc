#include "engine/model/moe.h"

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
    selection.offsets.reserve(rows + 1);
    selection.experts.reserve(entries);
    selection.weights.reserve(entries);
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

  ExpertSelection selection;

 private:
  size_t size_of(int expert) const { return offsets_[expert + 1] - offsets_[expert]; }

  std::vector<int32_t> offsets_;  // [experts + 1], into the three below
  std::vector<int32_t> rows_, entries_;
  std::vector<float> scales_;
  std::vector<int> wanted_;
  std::vector<ExpertTask> tasks_;
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

class MoeLayer : public FeedForward {
 public:
  MoeLayer(const MoeConfig& config, int index, const ExpertLayout& layout,
           const std::string& prefix, TensorBinder& binder);

  void Place(WorkArena& arena, int64_t rows) override;
  void Forward(const StepContext& step, Mat x, Mat out) override;

 private:
  void ForwardShared(const StepContext& step, Mat x, Mat out);
  // Experts that are resident compute while others are read.
  void ForwardExperts(const StepContext& step, Mat x);

  MoeConfig config_;
  const int index_;
  const ExpertLayout layout_;
  Weight gate_, gate_bias_;
  std::unique_ptr<GatedMlp> shared_;
  Weight shared_gate_;

  ExpertGroups groups_;
  Mat logits_, shared_logit_, expert_outputs_;
};

MoeLayer::MoeLayer(const MoeConfig& config, int index, const ExpertLayout& layout,
                   const std::string& prefix, TensorBinder& binder)
    : config_(config), index_(index), layout_(layout) {
  gate_ = binder.MatrixAsStored(prefix + config.gate_name + ".weight", config.experts, config.dim);
  if (config.gate_bias) {
    gate_bias_ = binder.Vector(prefix + config.gate_name + ".bias", config.experts);
  }
  if (!config.correction_bias.empty()) {
    config_.gate.bias = binder.Floats(prefix + config.correction_bias, config.experts);
  }
  if (config.shared.has_value()) {
    shared_ = std::make_unique<GatedMlp>(*config.shared, prefix + config.shared_name, binder);
    if (config.shared_gate) {
      shared_gate_ = binder.MatrixAsStored(prefix + "shared_expert_gate.weight", 1, config.dim);
    }
  }
}

void MoeLayer::Place(WorkArena& arena, int64_t rows) {
  const int64_t entries = rows * config_.gate.top_k;
  logits_ = arena.Matrix(rows, config_.experts);
  shared_logit_ = arena.Matrix(rows, 1);
  expert_outputs_ = arena.Matrix(entries, config_.dim);
  if (shared_ != nullptr) shared_->Place(arena, rows);
  groups_.Reserve(static_cast<int>(rows), static_cast<int>(entries), config_.experts);
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
       static_cast<int>(step.batch.sequences.size())});
  for (std::span<const AcquiredExpert> ready = acquisition.Next(); !ready.empty();
       ready = acquisition.Next()) {
    std::vector<ExpertTask>& tasks = groups_.tasks();
    tasks.clear();
    for (const AcquiredExpert& expert : ready) {
      if (expert.data != nullptr) {
        tasks.push_back(groups_.TaskOf(expert.expert, expert.data, config_.weigh_input));
        continue;
      }
      for (const int32_t row : groups_.rows_of(expert.expert)) {
        step.result->FailRow(row, static_cast<int>(x.rows), expert.status);
      }
    }
    step.backend.ExpertFfn(layout_, tasks, x, expert_outputs_);
  }
}

void MoeLayer::Forward(const StepContext& step, Mat x, Mat out) {
  Backend& backend = step.backend;
  const Mat logits = logits_.first_rows(x.rows);
  backend.MatMul(gate_, x, logits);
  if (config_.gate_bias) backend.AddBias(gate_bias_, logits);
  backend.SelectExperts(config_.gate, logits, &groups_.selection);
  groups_.Group(static_cast<int>(x.rows), config_.experts);
  if (step.result->trace != nullptr) step.result->trace->Record(index_, groups_.selection);

  ForwardShared(step, x, out);
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
