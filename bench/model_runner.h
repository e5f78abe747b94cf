// A model that these benchmarks step through by themselves, so that they choose
// the expert cache it uses and see every step.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cache/expert_cache.h"
#include "cache/tier.h"
#include "engine/base/status.h"
#include "engine/model/loader.h"

namespace hostler {

// Some sequences, greedily, in one batch.
class ModelRunner {
 public:
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Load(const std::string& path, int threads,
                                                           int sequences, int context) {
    auto runner = std::unique_ptr<ModelRunner>(new ModelRunner);
    HOSTLER_RETURN_IF_ERROR(runner->Start(path, threads, sequences, context));
    return runner;
  }

  const ExpertStore& experts() const { return *model_.model->experts(); }
  std::span<const std::string> files() const { return model_.weights->files(); }
  const Tokenizer* tokenizer() const { return model_.text.tokenizer.get(); }
  PolicyShape shape() const { return {experts().num_layers(), model_.model->info().experts}; }

  // Bytes of slots for all experts.
  uint64_t all_bytes() const {
    uint64_t bytes = 0;
    for (int layer = 0; layer < experts().num_layers(); ++layer) {
      bytes += SlotStride(experts().slot_bytes(layer)) * experts().num_experts(layer);
    }
    return bytes;
  }

  // What the coming steps use. `trace` may be null.
  void Use(ExpertCache* cache, bool guess_by_gate, GateTrace* trace) {
    cache_ = cache;
    guess_by_gate_ = guess_by_gate;
    result_.trace = trace;
  }

  // A step that computes the whole prompt of a sequence anew.
  absl::Status Prefill(int sequence, std::span<const int32_t> prompt) {
    const int rows = static_cast<int>(prompt.size());
    Clear();
    Add(sequence, prompt, 0, rows);
    HOSTLER_RETURN_IF_ERROR(Forward());
    lengths_[sequence] = rows;
    next_[sequence] = Likeliest(0);
    return absl::OkStatus();
  }

  // A step of every sequence's next token, which `tokens` gets, when not null.
  absl::Status Decode(std::vector<int32_t>* tokens = nullptr) {
    Clear();
    for (size_t i = 0; i < next_.size(); ++i) {
      Add(static_cast<int>(i), {&next_[i], 1}, lengths_[i]++, 1);
    }
    if (tokens != nullptr) tokens->insert(tokens->end(), next_.begin(), next_.end());
    HOSTLER_RETURN_IF_ERROR(Forward());
    for (size_t i = 0; i < next_.size(); ++i) next_[i] = Likeliest(i);
    return absl::OkStatus();
  }

 private:
  static constexpr int kStepRows = 512;

  ModelRunner() = default;

  absl::Status Start(const std::string& path, int threads, int sequences, int context) {
    HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, NewCpuBackend(threads));
    HOSTLER_ASSIGN_OR_RETURN(model_, LoadModel(path, {}, std::move(backend)));
    Model& model = *model_.model;
    if (model.experts() == nullptr) return absl::InvalidArgumentError("the model has no experts");
    HOSTLER_RETURN_IF_ERROR(model.AllocateWorkspace({kStepRows, sequences}));
    layout_ = model.kv_layout();
    layout_.dtype = DType::kF16;
    const int blocks = (context + layout_.block_tokens - 1) / layout_.block_tokens;
    HOSTLER_ASSIGN_OR_RETURN(
        kv_, model_.backend->Allocate(layout_.block_bytes() * size_t(blocks) * size_t(sequences)));
    HOSTLER_ASSIGN_OR_RETURN(state_, model_.backend->Allocate(std::max<size_t>(
                                         model.state_bytes() * size_t(sequences), 1)));
    blocks_.resize(sequences);
    for (int i = 0; i < sequences * blocks; ++i) blocks_[i / blocks].push_back(i);
    lengths_.resize(sequences);
    next_.resize(sequences);
    return absl::OkStatus();
  }

  void Clear() {
    batch_.tokens.clear();
    batch_.positions.clear();
    batch_.sequences.clear();
    batch_.logit_rows.clear();
  }

  void Add(int sequence, std::span<const int32_t> tokens, int position, int prompt_tokens) {
    const int rows = static_cast<int>(tokens.size());
    batch_.sequences.push_back({.first_row = batch_.rows(),
                                .rows = rows,
                                .first_position = position,
                                .prompt_tokens = prompt_tokens,
                                .blocks = blocks_[sequence],
                                .state = sequence});
    batch_.tokens.insert(batch_.tokens.end(), tokens.begin(), tokens.end());
    for (int i = 0; i < rows; ++i) batch_.positions.push_back(position + i);
    batch_.logit_rows.push_back(batch_.rows() - 1);
  }

  absl::Status Forward() {
    model_.model->Forward(batch_,
                          {{layout_, kv_->data()},
                           {state_->data(), model_.model->state_bytes()},
                           cache_,
                           guess_by_gate_},
                          &result_);
    for (const absl::Status& status : result_.row_status) HOSTLER_RETURN_IF_ERROR(status);
    return absl::OkStatus();
  }

  int32_t Likeliest(size_t row) const {
    const size_t vocab = model_.model->info().vocab;
    const auto logits = result_.logits.begin() + static_cast<ptrdiff_t>(row * vocab);
    return static_cast<int32_t>(std::max_element(logits, logits + static_cast<ptrdiff_t>(vocab)) -
                                logits);
  }

  LoadedModel model_;
  KvLayout layout_;
  std::unique_ptr<Buffer> kv_, state_;
  std::vector<std::vector<int32_t>> blocks_;  // by sequence, as the next two
  std::vector<int> lengths_;
  std::vector<int32_t> next_;
  ExpertCache* cache_ = nullptr;
  bool guess_by_gate_ = false;
  StepBatch batch_;
  StepResult result_;
};

}  // namespace hostler
