#include "engine/model/decoder.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// RMSNorm or LayerNorm.
struct Norm {
  Weight gain, bias;
  float eps = 0;

  bool present() const { return gain.data != nullptr; }
  void Forward(Backend& backend, Mat x, Mat out) const {
    if (bias.data != nullptr) {
      backend.LayerNorm(x, gain, bias, eps, out);
    } else {
      backend.RmsNorm(x, gain, eps, out);
    }
  }
};

class Decoder : public Model {
 public:
  Decoder(DecoderConfig config, const ModelInfo& info, Backend* backend)
      : config_(std::move(config)), info_(info), backend_(*backend) {}

  // Keeps what it bound. Errors: the binder's.
  absl::Status Bind(const WeightSource* weights, const ModelOptions& options);
  // Binds without values. Errors: the binder's.
  absl::Status Sketch(const WeightSource* weights, const ModelOptions& options,
                      DecoderSketch* sketch);
  // Binds everything; returns the experts of every MoE layer.
  std::vector<StoredExperts> BindAll(TensorBinder& binder);

  const ModelInfo& info() const override { return info_; }
  KvLayout kv_layout() const override;
  size_t state_bytes() const override { return state_bytes_; }
  const ExpertStore* experts() const override { return experts_.get(); }
  uint64_t weight_bytes() const override { return weight_bytes_; }
  uint64_t ScratchBytes(const StepLimits& limits) const override;
  uint64_t WorkspaceBytes(const StepLimits& limits) override;
  absl::Status AllocateWorkspace(const StepLimits& limits) override;
  void Forward(const StepBatch& batch, const ModelMemory& memory, StepResult* result) override;
  absl::Status ReadLogits(const StepResult& result, int index, std::vector<float>* logits) override;

 private:
  struct Layer {
    Norm input_norm, mixer_output_norm, ffn_norm, ffn_output_norm;
    std::unique_ptr<Mixer> mixer;
    std::unique_ptr<FeedForward> ffn;
    bool moe = false;
  };

  Norm BindNorm(const std::string& name, TensorBinder& binder) const;
  std::unique_ptr<Mixer> BindMixer(const LayerConfig& layer, const std::string& prefix,
                                   TensorBinder& binder);
  void Place(WorkArena& arena, const StepLimits& limits);
  void SetLookahead();
  // x += scale * (out after its norm).
  void AddResidual(const Norm& norm, Mat out, Mat x) const;
  // Fills result->places and what else says which logits it has. The rows to compute, those
  // that are wanted whole first.
  std::span<const int32_t> OrderLogitRows(const StepBatch& batch, StepResult* result);
  // Errors: of any of the step's operations.
  absl::Status ForwardHead(const StepBatch& batch, Mat x, StepResult* result);

  const DecoderConfig config_;
  const ModelInfo info_;
  Backend& backend_;
  Weight embedding_, head_, head_bias_;
  Norm final_norm_;
  std::vector<Layer> layers_;
  std::unique_ptr<ExpertStore> experts_;
  std::vector<std::unique_ptr<Buffer>> weight_buffers_;
  uint64_t weight_bytes_ = 0;
  int kv_layers_ = 0;
  size_t state_bytes_ = 0;

  GateLookahead gates_;
  std::unique_ptr<Buffer> workspace_;
  Mat x_, normed_, out_, gate_logits_, last_, logits_;
  std::vector<int32_t> ordered_rows_;
};

Norm Decoder::BindNorm(const std::string& name, TensorBinder& binder) const {
  Norm norm;
  norm.eps = config_.norm_eps;
  norm.gain = binder.Gain(name + ".weight", config_.dim, config_.gain_offset);
  if (config_.layer_norm) norm.bias = binder.Vector(name + ".bias", config_.dim);
  return norm;
}

std::unique_ptr<Mixer> Decoder::BindMixer(const LayerConfig& layer, const std::string& prefix,
                                          TensorBinder& binder) {
  const RopeSpec* rope = layer.rope < 0 ? nullptr : &config_.ropes[layer.rope];
  if (layer.delta_net.has_value()) {
    const size_t offset =
        std::exchange(state_bytes_, state_bytes_ + layer.delta_net->state_bytes());
    return NewDeltaNet(*layer.delta_net, offset, prefix + config_.delta_net_name, binder);
  }
  if (layer.mla.has_value()) {
    MlaConfig config = *layer.mla;
    config.rope = rope;
    return NewMla(config, kv_layers_++, prefix + config_.mixer_name, binder);
  }
  AttentionConfig config = *layer.attention;
  config.rope = rope;
  return NewAttention(config, kv_layers_++, prefix + config_.mixer_name, binder);
}

std::vector<StoredExperts> Decoder::BindAll(TensorBinder& binder) {
  constexpr const char* kEmbedding = "model.embed_tokens.weight";
  if (config_.tied_embeddings) {
    embedding_ = head_ = binder.Matrix(kEmbedding, config_.vocab, config_.dim);
  } else {
    embedding_ = binder.Table(kEmbedding, config_.vocab, config_.dim);
    head_ = binder.Matrix("lm_head.weight", config_.vocab, config_.dim);
  }
  final_norm_ = BindNorm("model.norm", binder);
  if (config_.head_bias) head_bias_ = binder.Vector("lm_head.bias", config_.vocab);

  std::vector<StoredExperts> experts;
  for (size_t i = 0; i < config_.layers.size(); ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    Layer& layer = layers_.emplace_back();
    layer.input_norm = BindNorm(prefix + config_.input_norm, binder);
    layer.ffn_norm = BindNorm(prefix + config_.ffn_norm, binder);
    if (!config_.mixer_output_norm.empty()) {
      layer.mixer_output_norm = BindNorm(prefix + config_.mixer_output_norm, binder);
      layer.ffn_output_norm = BindNorm(prefix + config_.ffn_output_norm, binder);
    }
    layer.mixer = BindMixer(config_.layers[i], prefix, binder);
    if (!config_.layers[i].moe) {
      layer.ffn = std::make_unique<GatedMlp>(config_.dense, prefix + config_.dense_name, binder);
      continue;
    }
    layer.moe = true;
    experts.push_back(BindExperts(config_.expert_names, config_.moe.experts, config_.dim,
                                  config_.expert_ffn, config_.expert_activation,
                                  prefix + config_.moe_name, binder));
    layer.ffn = NewMoe(config_.moe, static_cast<int>(experts.size()) - 1, experts.back().layout,
                       prefix + config_.moe_name, binder);
  }
  return experts;
}

absl::Status Decoder::Bind(const WeightSource* weights, const ModelOptions& options) {
  TensorBinder binder(weights, &backend_, options.quantize, options.precise);
  std::vector<StoredExperts> experts = BindAll(binder);
  // A GGUF file has nothing but the model; checkpoints have all kinds of things.
  if (weights->format() == "gguf") binder.RefuseUnused(static_cast<int>(config_.layers.size()));
  HOSTLER_RETURN_IF_ERROR(binder.status());
  if (!experts.empty()) experts_ = NewExpertStore(std::move(experts));
  weight_bytes_ = binder.bytes();
  weight_buffers_ = binder.TakeBuffers();
  SetLookahead();
  return absl::OkStatus();
}

absl::Status Decoder::Sketch(const WeightSource* weights, const ModelOptions& options,
                             DecoderSketch* sketch) {
  std::map<std::string, TensorUse> uses;
  TensorBinder binder(
      weights, [this](DType type) { return backend_.Interleaves(type); }, options.quantize,
      options.precise, &uses);
  std::vector<StoredExperts> experts = BindAll(binder);
  HOSTLER_RETURN_IF_ERROR(binder.status());
  for (const StoredExperts& layer : experts) sketch->experts.push_back(layer.layout);
  if (!experts.empty()) experts_ = NewExpertStore(std::move(experts));
  weight_bytes_ = binder.bytes();
  sketch->dense_macs = binder.matrix_values();
  // The embedding is looked up, unless it is the head as well.
  if (!config_.tied_embeddings) {
    sketch->dense_macs[embedding_.dtype] -= uint64_t(config_.vocab) * config_.dim;
  }
  return absl::OkStatus();
}

void Decoder::SetLookahead() {
  std::vector<GateLookahead::Gate> gates;
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (!config_.layers[i].moe) continue;
    const Layer& layer = layers_[i];
    gates.push_back([&layer](Backend& backend, Mat x, Mat logits, ExpertSelection* selection) {
      layer.ffn_norm.Forward(backend, x, x);
      layer.ffn->Choose(backend, x, logits, selection);
    });
  }
  gates_.SetGates(std::move(gates), config_.moe.experts);
}

KvLayout Decoder::kv_layout() const {
  KvLayout layout;
  // Without attention, positions still have blocks, with next to nothing in them.
  layout.layers = std::max(kv_layers_, 1);
  layout.kv_heads = layout.k_dim = layout.v_dim = 1;
  for (const LayerConfig& layer : config_.layers) {
    if (layer.attention.has_value()) {
      layout.kv_heads = layer.attention->kv_heads;
      layout.k_dim = layout.v_dim = layer.attention->head_dim;
    } else if (layer.mla.has_value()) {
      layout.kv_heads = 1;
      layout.k_dim = layer.mla->kv_rank + layer.mla->rope_dim;
      layout.v_dim = layer.mla->kv_rank;
      layout.v_in_k = true;
    }
  }
  return layout;
}

void Decoder::Place(WorkArena& arena, const StepLimits& limits) {
  x_ = arena.Matrix(limits.rows, config_.dim);
  normed_ = arena.Matrix(limits.rows, config_.dim);
  out_ = arena.Matrix(limits.rows, config_.dim);
  if (config_.moe.gate_residual) {
    gate_logits_ = arena.Matrix(limits.rows, config_.moe.choices());
  }
  if (experts_ != nullptr) gates_.Place(arena, config_.dim, config_.moe.choices());
  // Layers, their two halves and the head take turns with the rest.
  const int64_t mark = arena.Mark();
  for (const Layer& layer : layers_) {
    arena.Rewind(mark);
    layer.mixer->Place(arena, limits.rows);
    arena.Rewind(mark);
    layer.ffn->Place(arena, limits.rows);
  }
  arena.Rewind(mark);
  last_ = arena.Matrix(limits.logit_rows, config_.dim);
  logits_ = arena.Matrix(limits.logit_rows, config_.vocab);
}

uint64_t Decoder::ScratchBytes(const StepLimits& limits) const {
  size_t most = 0;
  for (const Layer& layer : layers_) {
    most = std::max(most, layer.ffn->ScratchBytes(backend_, limits.rows));
  }
  return most;
}

uint64_t Decoder::WorkspaceBytes(const StepLimits& limits) {
  WorkArena planned;
  Place(planned, limits);
  return planned.bytes();
}

absl::Status Decoder::AllocateWorkspace(const StepLimits& limits) {
  HOSTLER_ASSIGN_OR_RETURN(workspace_, backend_.Allocate(WorkspaceBytes(limits)));
  WorkArena arena(reinterpret_cast<float*>(workspace_->data()));
  Place(arena, limits);
  return absl::OkStatus();
}

void Decoder::AddResidual(const Norm& norm, Mat out, Mat x) const {
  if (norm.present()) norm.Forward(backend_, out, out);
  if (config_.residual_scale != 1) backend_.Scale(config_.residual_scale, out);
  backend_.Add(out, x);
}

void Decoder::Forward(const StepBatch& batch, const ModelMemory& memory, StepResult* result) {
  result->row_status.clear();
  const Mat x = x_.first_rows(batch.rows());
  const StepContext step{.backend = backend_,
                         .batch = batch,
                         .kv = memory.kv,
                         .state = memory.state,
                         .cache = memory.cache,
                         .lookahead = memory.guess_by_gate ? &gates_ : nullptr,
                         .residual = x,
                         .result = result,
                         .gate_logits = gate_logits_.first_rows(batch.rows())};
  const Mat normed = normed_.first_rows(batch.rows()), out = out_.first_rows(batch.rows());
  backend_.Embed(embedding_, batch.tokens, x);
  if (config_.embedding_scale != 1) backend_.Scale(config_.embedding_scale, x);
  int moe_layers = 0;
  for (const Layer& layer : layers_) {
    if (layer.moe) step.ReadAhead(moe_layers++, GateLookahead::From::kOwnInput);
    layer.input_norm.Forward(backend_, x, normed);
    layer.mixer->Forward(step, normed, out);
    AddResidual(layer.mixer_output_norm, out, x);
    layer.ffn_norm.Forward(backend_, x, normed);
    layer.ffn->Forward(step, normed, out);
    AddResidual(layer.ffn_output_norm, out, x);
  }
  const absl::Status status = ForwardHead(batch, x, result);
  for (int row = 0; !status.ok() && row < batch.rows(); ++row) {
    result->FailRow(row, batch.rows(), status);
  }
}

absl::Status Decoder::ForwardHead(const StepBatch& batch, Mat x, StepResult* result) {
  const int64_t wanted = static_cast<int64_t>(batch.logit_rows.size());
  const std::span<const int32_t> rows = OrderLogitRows(batch, result);
  if (wanted == 0) return backend_.ReadBack({}, nullptr);
  const Mat last = last_.first_rows(wanted), logits = logits_.first_rows(wanted);
  backend_.GatherRows(x, rows, last);
  final_norm_.Forward(backend_, last, last);
  backend_.MatMul(head_, last, logits);
  if (config_.head_bias) backend_.AddBias(head_bias_, logits);
  if (config_.logit_scale != 1) backend_.Scale(config_.logit_scale, logits);
  if (config_.logit_soft_cap > 0) backend_.SoftCap(config_.logit_soft_cap, logits);
  const int64_t whole = static_cast<int64_t>(result->logits.size()) / config_.vocab;
  if (whole < wanted) {
    const Mat others = {logits.row(whole), wanted - whole, logits.cols};
    backend_.Strongest(others, result->strongest_count, result->strongest.data());
  }
  return backend_.ReadBack(logits.first_rows(whole), result->logits.data());
}

std::span<const int32_t> Decoder::OrderLogitRows(const StepBatch& batch, StepResult* result) {
  const size_t wanted = batch.logit_rows.size();
  result->places.clear();
  result->strongest.clear();
  result->strongest_count = 0;
  result->logits.resize(wanted * config_.vocab);
  if (backend_.MostStrongest() == 0 || batch.strongest.empty()) return batch.logit_rows;
  const int most = *std::max_element(batch.strongest.begin(), batch.strongest.end());
  if (most == 0) return batch.logit_rows;
  ordered_rows_.clear();
  result->places.resize(wanted);
  int whole = 0, others = 0;
  for (size_t i = 0; i < wanted; ++i) {
    if (batch.strongest[i] > 0) continue;
    result->places[i] = whole++;
    ordered_rows_.push_back(batch.logit_rows[i]);
  }
  for (size_t i = 0; i < wanted; ++i) {
    if (batch.strongest[i] == 0) continue;
    result->places[i] = ~others++;
    ordered_rows_.push_back(batch.logit_rows[i]);
  }
  // Of few sizes: steps are to be like one another.
  result->strongest_count = std::min(static_cast<int>(std::bit_ceil(static_cast<unsigned>(most))),
                                     std::min(backend_.MostStrongest(), config_.vocab));
  result->strongest.resize(size_t(others) * result->strongest_count);
  result->logits.resize(size_t(whole) * config_.vocab);
  return ordered_rows_;
}

absl::Status Decoder::ReadLogits(const StepResult& result, int index, std::vector<float>* logits) {
  const int64_t whole = static_cast<int64_t>(result.logits.size()) / config_.vocab;
  logits->resize(config_.vocab);
  const Mat row = {logits_.row(whole + ~result.places[index]), 1, logits_.cols};
  return backend_.ReadBack(row, logits->data());
}

}  // namespace

absl::StatusOr<DecoderParts> ListDecoderParts(DecoderConfig config, const WeightSource* weights,
                                              const ModelOptions& options) {
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, NewCpuBackend(1));
  DecoderParts parts;
  TensorBinder binder(weights, CanInterleave, options.quantize, options.precise, &parts.tensors);
  Decoder decoder(std::move(config), ModelInfo(), backend.get());
  parts.experts = decoder.BindAll(binder);
  HOSTLER_RETURN_IF_ERROR(binder.status());
  return parts;
}

absl::StatusOr<DecoderSketch> SketchDecoder(DecoderConfig config, const ModelInfo& info,
                                            const WeightSource* weights,
                                            const ModelOptions& options, Backend* backend) {
  auto decoder = std::make_unique<Decoder>(std::move(config), info, backend);
  DecoderSketch sketch;
  HOSTLER_RETURN_IF_ERROR(decoder->Sketch(weights, options, &sketch));
  sketch.model = std::move(decoder);
  return sketch;
}

absl::StatusOr<std::unique_ptr<Model>> NewDecoder(DecoderConfig config, const ModelInfo& info,
                                                  const WeightSource* weights,
                                                  const ModelOptions& options, Backend* backend) {
  auto decoder = std::make_unique<Decoder>(std::move(config), info, backend);
  HOSTLER_RETURN_IF_ERROR(decoder->Bind(weights, options));
  return decoder;
}

void DescribeDecoder(const DecoderConfig& config, ModelInfo* info) {
  info->vocab = config.vocab;
  info->dim = config.dim;
  info->layers = static_cast<int>(config.layers.size());
  info->max_positions = config.max_positions;
  info->moe_layers = static_cast<int>(std::count_if(config.layers.begin(), config.layers.end(),
                                                    [](const auto& layer) { return layer.moe; }));
  info->experts = info->moe_layers > 0 ? config.moe.experts : 0;
  info->experts_per_token = info->moe_layers > 0 ? config.moe.gate.top_k : 0;
  info->kv_values_per_token = 0;
  for (const LayerConfig& layer : config.layers) {
    if (layer.attention.has_value()) {
      info->heads = layer.attention->heads;
      info->kv_heads = layer.attention->kv_heads;
      info->head_dim = layer.attention->head_dim;
      info->kv_values_per_token += uint64_t{2} * info->kv_heads * info->head_dim;
    } else if (layer.mla.has_value()) {
      info->heads = layer.mla->heads;
      info->kv_heads = 1;
      info->head_dim = layer.mla->kv_rank + layer.mla->rope_dim;
      info->kv_values_per_token += info->head_dim;
    }
  }
}

}  // namespace hostler
