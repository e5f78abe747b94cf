#include "engine/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "engine/base/status.h"
#include "engine/engine/device.h"
#include "engine/engine/engine_loop.h"
#include "engine/engine/memory_plan.h"
#include "engine/engine/memory_split.h"
#include "engine/engine/model_needs.h"
#include "engine/engine/prepare.h"
#include "engine/engine/served_experts.h"
#include "engine/model/loader.h"

namespace hostler {
namespace {

class LocalEngine : public Engine {
 public:
  absl::Status Start(const std::string& path, EngineOptions options);

  absl::StatusOr<std::shared_ptr<GenerateStream>> Submit(GenerateRequest request) override;
  absl::StatusOr<std::vector<int32_t>> TokenizePrompt(
      const GenerateRequest& request) const override {
    return hostler::TokenizePrompt(model_, request);
  }
  absl::StatusOr<std::vector<float>> Logits(const std::vector<int32_t>& tokens) override;
  void Drain(int deadline_ms) override {
    loop_->Drain(deadline_ms);
    if (experts_ != nullptr) experts_->SavePopularity();
  }
  EngineStats stats() const override { return loop_->stats(); }
  std::optional<ExpertReport> experts() const override;
  const ModelInfo& model() const override { return model_.model->info(); }
  MemoryPlan memory() const override;
  absl::StatusOr<MemoryPlan> SetExpertMemory(uint64_t bytes) override;
  int max_context() const override { return max_context_; }
  const Tokenizer* tokenizer() const override { return model_.text.tokenizer.get(); }

 private:
  // Where the split may move.
  MemorySplit::Limits SplitLimits(const DividedMemory& memory, const EngineOptions& options,
                                  const KvLayout& layout) const;
  absl::Status AllocateMemory(const DividedMemory& memory, const KvLayout& layout,
                              const EngineOptions& options);

  // From the last to the first: the loop stops before what it uses goes.
  LoadedModel model_;
  MemoryPlan plan_;
  int block_tokens_ = 0;
  uint64_t kv_block_bytes_ = 0;
  int longest_context_ = 0;
  std::atomic<int> max_context_{0};
  std::unique_ptr<ServedExperts> experts_;  // null for a dense model
  std::unique_ptr<Buffer> kv_, state_;
  std::unique_ptr<MemorySplit> split_;  // null for a dense model
  std::unique_ptr<EngineLoop> loop_;
};

MemorySplit::Limits LocalEngine::SplitLimits(const DividedMemory& memory,
                                             const EngineOptions& options,
                                             const KvLayout& layout) const {
  const MemoryPlan& plan = memory.plan;
  const int context_blocks = (memory.max_context + layout.block_tokens - 1) / layout.block_tokens;
  MemorySplit::Limits limits;
  limits.bytes = plan.budget - plan.weights - plan.work_space;
  limits.kv_block = layout.block_bytes();
  limits.least_kv_blocks = memory.least_kv_blocks;
  limits.context_blocks = context_blocks;
  limits.least_experts = memory.least_experts;
  limits.most_experts = plan.all_experts;
  // A device's memory is taken whole: what KV leaves of it the experts cannot have.
  if (!plan.device.empty()) {
    limits.bytes = memory.kv_blocks * limits.kv_block + plan.experts;
    limits.least_kv_blocks = limits.most_kv_blocks = memory.kv_blocks;
    limits.most_experts = plan.experts;
    return limits;
  }
  // More than every sequence can fill is of no use.
  limits.most_kv_blocks = static_cast<int>(std::max<uint64_t>(
      memory.kv_blocks, std::min((limits.bytes - memory.least_experts) / limits.kv_block,
                                 uint64_t(context_blocks) * options.max_sequences)));
  return limits;
}

absl::Status LocalEngine::AllocateMemory(const DividedMemory& memory, const KvLayout& layout,
                                         const EngineOptions& options) {
  const bool dense = experts_ == nullptr;
  const MemorySplit::Limits limits = SplitLimits(memory, options, layout);
  const int blocks = dense ? memory.kv_blocks : limits.most_kv_blocks;
  HOSTLER_ASSIGN_OR_RETURN(kv_, model_.backend->Allocate(layout.block_bytes() * size_t(blocks)));
  if (const size_t bytes = model_.model->state_bytes(); bytes > 0) {
    HOSTLER_ASSIGN_OR_RETURN(state_, model_.backend->Allocate(bytes * options.max_sequences));
  }
  if (dense) return absl::OkStatus();
  HOSTLER_RETURN_IF_ERROR(experts_->Start(plan_, model_.backend.get()));
  const bool automatic = options.move_memory && options.expert_memory_bytes == 0 &&
                         options.kv_memory_bytes == 0 && memory.plan.device.empty();
  split_ = std::make_unique<MemorySplit>(limits,
                                         MemorySplit::Shares{memory.kv_blocks, memory.plan.experts},
                                         automatic, kv_.get(), experts_->cache());
  return absl::OkStatus();
}

absl::Status LocalEngine::Start(const std::string& path, EngineOptions options) {
  HOSTLER_ASSIGN_OR_RETURN(const DeviceChoice choice, ChooseDevice(path, options));
  options.device = choice.device;
  const auto new_backend = [&options] {
    return options.new_backend ? options.new_backend() : NewBackend(options);
  };
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, new_backend());
  // Before weights take some of it.
  const std::optional<DeviceMemory> device = backend->memory();
  if (device.has_value()) {
    // So that too small a device is told of as such, not by what finds no room there.
    HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Backend> to_plan, new_backend());
    HOSTLER_RETURN_IF_ERROR(PlanModelOn(path, options, std::move(to_plan), device).status());
  }
  const ModelOptions model_options{options.quantize == Quantize::kQ8, options.precise};
  HOSTLER_ASSIGN_OR_RETURN(model_, LoadModel(path, model_options, std::move(backend)));
  if (!options.chat_template.empty()) {
    HOSTLER_ASSIGN_OR_RETURN(model_.text.chat_template, LoadChatTemplate(options.chat_template));
  }
  HOSTLER_ASSIGN_OR_RETURN(experts_,
                           ServedExperts::Create(*model_.model, *model_.weights, options));

  ClampSequences(&options);
  const StepLimits limits = StepLimitsFor(*model_.model, options);
  const KvLayout layout = KvLayoutFor(*model_.model, options);
  HOSTLER_ASSIGN_OR_RETURN(
      const DividedMemory memory,
      DivideMemory(NeedsOf(*model_.model, experts_.get(), options, device.has_value()), options,
                   model().max_positions, device));
  plan_ = memory.plan;
  block_tokens_ = layout.block_tokens;
  kv_block_bytes_ = layout.block_bytes();
  longest_context_ = memory.max_context;
  max_context_ = memory.max_context;

  HOSTLER_RETURN_IF_ERROR(model_.model->AllocateWorkspace(limits));
  HOSTLER_RETURN_IF_ERROR(AllocateMemory(memory, layout, options));

  EngineLoop::Options scheduling;
  scheduling.limits.step_rows = limits.rows;
  scheduling.limits.logit_rows = limits.logit_rows;
  scheduling.limits.max_sequences = options.max_sequences;
  scheduling.limits.block_tokens = layout.block_tokens;
  scheduling.limits.recurrent = state_ != nullptr;
  scheduling.limits.prefix_cache = options.prefix_cache;
  scheduling.max_queue = options.max_queue;
  if (experts_ != nullptr) scheduling.recorder = experts_->recorder();
  scheduling.width.max_width = limits.logit_rows;
  scheduling.width.fixed = options.decode_width;
  scheduling.width.max_wait_seconds = options.max_decode_wait_ms * 1e-3;
  scheduling.chunk = {options.step_tokens, options.decode_gap_ms * 1e-3};
  ModelMemory model_memory;
  model_memory.kv = {layout, kv_->data()};
  if (state_ != nullptr) model_memory.state = {state_->data(), model_.model->state_bytes()};
  if (experts_ != nullptr) model_memory.cache = experts_->cache();
  model_memory.guess_by_gate =
      options.expert_prefetch == Prefetch::kAuto || options.expert_prefetch == Prefetch::kGate;
  loop_ = std::make_unique<EngineLoop>(
      &model_, model_memory,
      BlockPool(static_cast<int>(kv_->bytes() / layout.block_bytes()), memory.kv_blocks),
      split_.get(), scheduling);
  return absl::OkStatus();
}

std::optional<ExpertReport> LocalEngine::experts() const {
  if (experts_ == nullptr) return std::nullopt;
  const ExpertCache& cache = *experts_->cache();
  const ExpertStore& store = *model_.model->experts();
  ExpertReport report;
  report.policy = cache.policy_name();
  report.reader = cache.reader_name();
  report.direct_io = cache.reads_directly();
  for (const uint64_t resident : cache.ResidentBytes()) {
    const int layer = static_cast<int>(report.layers.size());
    report.layers.push_back(
        {resident, SlotStride(store.slot_bytes(layer)) * uint64_t(store.num_experts(layer))});
  }
  report.demand_reads = cache.DemandReads();
  report.miss_ratios = cache.MissRatioCurve();
  return report;
}

MemoryPlan LocalEngine::memory() const {
  MemoryPlan plan = plan_;
  if (split_ == nullptr) return plan;
  const MemorySplit::Shares shares = split_->asked();
  plan.kv = shares.kv_blocks * kv_block_bytes_;
  plan.experts = shares.experts;
  return plan;
}

absl::StatusOr<MemoryPlan> LocalEngine::SetExpertMemory(uint64_t bytes) {
  if (split_ == nullptr) return absl::FailedPreconditionError("the model has no experts");
  HOSTLER_ASSIGN_OR_RETURN(const MemorySplit::Shares shares, split_->Ask(bytes));
  max_context_ = static_cast<int>(
      std::min<int64_t>(longest_context_, int64_t{shares.kv_blocks} * block_tokens_));
  loop_->Wake();
  return memory();
}

absl::StatusOr<std::shared_ptr<GenerateStream>> LocalEngine::Submit(GenerateRequest request) {
  HOSTLER_ASSIGN_OR_RETURN(std::vector<std::unique_ptr<Sequence>> sequences,
                           PrepareSequences(model_, max_context_, std::move(request)));
  auto stream = std::make_shared<GenerateStream>();
  sequences.front()->request->stream = stream;
  HOSTLER_RETURN_IF_ERROR(loop_->Submit(std::move(sequences)));
  return stream;
}

absl::StatusOr<std::vector<float>> LocalEngine::Logits(const std::vector<int32_t>& tokens) {
  GenerateRequest request;
  request.prompt = tokens;
  request.max_tokens = 1;
  // One more than the context: a window may fill it whole, nothing is generated.
  HOSTLER_ASSIGN_OR_RETURN(std::vector<std::unique_ptr<Sequence>> sequences,
                           PrepareSequences(model_, max_context_ + 1, std::move(request)));
  std::vector<float> logits;
  logits.reserve(tokens.size() * model().vocab);
  auto stream = std::make_shared<GenerateStream>();
  RequestState& state = *sequences.front()->request;
  state.stream = stream;
  state.all_logits = &logits;
  HOSTLER_RETURN_IF_ERROR(loop_->Submit(std::move(sequences)));
  while (stream->Pop().has_value()) {
  }
  HOSTLER_RETURN_IF_ERROR(stream->status());
  return logits;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Load(const std::string& path,
                                                     const EngineOptions& options) {
  auto engine = std::make_unique<LocalEngine>();
  HOSTLER_RETURN_IF_ERROR(engine->Start(path, options));
  return engine;
}

}  // namespace hostler
