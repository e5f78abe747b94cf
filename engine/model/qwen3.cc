// Qwen3 and Qwen3-MoE (Qwen3 Technical Report, 2025): pre-norm, grouped-query
// attention with RMSNorm on each head's q and k, rotary positions, SwiGLU or
// a softmax-gated MoE of SwiGLU experts.

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/model/architectures.h"
#include "engine/model/config_reader.h"
#include "engine/model/moe_layer.h"
#include "engine/model/tensor_binder.h"
#include "engine/model/tensor_expert_store.h"
#include "fmt/format.h"

namespace hostler {
namespace {

struct Qwen3Config {
  int vocab, dim, layers, heads, kv_heads, head_dim, ffn, max_positions;
  float norm_eps;
  double rope_theta;
  bool tied_embeddings;
  // MoE; experts == 0 in the dense model.
  int experts = 0, top_k = 0, expert_ffn = 0;
  bool normalize_weights = true;
  std::vector<bool> is_moe;  // [layers]
};

void RefuseUnsupported(ConfigReader& reader) {
  if (reader.Bool("use_sliding_window", false))
    reader.Fail("use_sliding_window", "is not supported");
  if (reader.Bool("attention_bias", false)) reader.Fail("attention_bias", "is not supported");
  const std::string activation = reader.String("hidden_act", "silu");
  if (activation != "silu") {
    reader.Fail("hidden_act", fmt::format("is \"{}\"; only silu is supported", activation));
  }
  if (const nlohmann::json* scaling = reader.Get("rope_scaling")) {
    ConfigReader inner(*scaling, "rope_scaling");
    const std::string type = inner.String("rope_type", inner.String("type", "default"));
    if (type != "default") {
      reader.Fail("rope_scaling", fmt::format("has type \"{}\", which is not supported", type));
    }
  }
}

void ReadMoeConfig(ConfigReader& reader, Qwen3Config* config) {
  config->experts = reader.Int("num_experts", 1, 65536);
  config->top_k = reader.Int("num_experts_per_tok", 1, config->experts);
  config->expert_ffn = reader.Int("moe_intermediate_size", 1, 1 << 24);
  config->normalize_weights = reader.Bool("norm_topk_prob", false);
  const int sparse_step = reader.Int("decoder_sparse_step", 1, 1 << 20, 1);
  std::set<int64_t> dense_layers;
  if (const nlohmann::json* only = reader.Get("mlp_only_layers")) {
    for (const nlohmann::json& layer : *only) {
      if (!layer.is_number_integer())
        reader.Fail("mlp_only_layers", "must list integers");
      else
        dense_layers.insert(layer.get<int64_t>());
    }
  }
  for (int layer = 0; layer < config->layers; ++layer) {
    config->is_moe[layer] = !dense_layers.contains(layer) && (layer + 1) % sparse_step == 0;
  }
}

absl::StatusOr<Qwen3Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json, "config.json");
  Qwen3Config config;
  config.vocab = reader.Int("vocab_size", 1, 1 << 24);
  config.dim = reader.Int("hidden_size", 1, 1 << 20);
  config.layers = reader.Int("num_hidden_layers", 1, 4096);
  config.heads = reader.Int("num_attention_heads", 1, 4096);
  config.kv_heads = reader.Int("num_key_value_heads", 1, config.heads, config.heads);
  config.head_dim = reader.Int("head_dim", 2, 4096, std::max(2, config.dim / config.heads));
  config.ffn = reader.Int("intermediate_size", 1, 1 << 24, 1);
  config.max_positions = reader.Int("max_position_embeddings", 1, 1 << 30);
  config.norm_eps = static_cast<float>(reader.Double("rms_norm_eps", 1e-6));
  config.rope_theta = reader.Double("rope_theta", 10000.0);
  config.tied_embeddings = reader.Bool("tie_word_embeddings", false);
  config.is_moe.assign(config.layers, false);
  if (config.heads % config.kv_heads != 0) {
    reader.Fail("num_key_value_heads", "must divide num_attention_heads");
  }
  if (config.head_dim % 2 != 0) reader.Fail("head_dim", "must be even");
  if (!(config.rope_theta > 0)) reader.Fail("rope_theta", "must be positive");
  RefuseUnsupported(reader);
  if (reader.Has("num_experts")) ReadMoeConfig(reader, &config);
  HOSTLER_RETURN_IF_ERROR(reader.status());
  return config;
}

absl::Status Describe(const ModelSource& source, ModelInfo* info) {
  HOSTLER_ASSIGN_OR_RETURN(const Qwen3Config config, ReadConfig(*source.config));
  info->vocab = config.vocab;
  info->layers = config.layers;
  info->dim = config.dim;
  info->heads = config.heads;
  info->kv_heads = config.kv_heads;
  info->head_dim = config.head_dim;
  info->max_positions = config.max_positions;
  info->moe_layers = static_cast<int>(std::count(config.is_moe.begin(), config.is_moe.end(), true));
  info->experts = info->moe_layers > 0 ? config.experts : 0;
  info->experts_per_token = info->moe_layers > 0 ? config.top_k : 0;
  return absl::OkStatus();
}

class Qwen3Model : public Model {
 public:
  Qwen3Model(const Qwen3Config& config, const ModelInfo& info, Backend* backend)
      : config_(config), info_(info), backend_(*backend) {}

  absl::Status Bind(const ModelSource& source, const ModelOptions& options);

  const ModelInfo& info() const override { return info_; }
  KvLayout kv_layout() const override {
    KvLayout layout;
    layout.layers = config_.layers;
    layout.kv_heads = config_.kv_heads;
    layout.head_dim = config_.head_dim;
    return layout;
  }
  const ExpertStore* experts() const override { return experts_.get(); }
  uint64_t weight_bytes() const override { return weight_bytes_; }

  uint64_t WorkspaceBytes(const StepLimits& limits) const override;
  absl::Status AllocateWorkspace(const StepLimits& limits) override;
  void Forward(const StepBatch& batch, const KvView& kv, ExpertCache* cache,
               StepResult* result) override;

 private:
  struct Layer {
    Weight input_norm, q, k, v, o, q_norm, k_norm, post_norm;
    Weight gate, up, down;  // dense layers
    MoeLayer moe;           // MoE layers
  };
  // Where each work matrix begins, in floats, and how many in all.
  struct Plan {
    int64_t x, h, q, k, v, attention, gate, up, last, logits, total;
  };
  Plan PlanWorkspace(const StepLimits& limits) const;
  int64_t q_dim() const { return int64_t(config_.heads) * config_.head_dim; }
  int64_t kv_dim() const { return int64_t(config_.kv_heads) * config_.head_dim; }
  int64_t dense_ffn() const;

  absl::Status BindExperts(TensorBinder& binder, bool quantize);
  // x += attention(x), with h as scratch of the same shape.
  void Attend(const StepBatch& batch, int index, const KvView& kv, Mat x, Mat h);
  // x += feed-forward(x).
  void FeedForward(const Layer& layer, ExpertCache* cache, Mat x, Mat h, StepResult* result);

  const Qwen3Config config_;
  ModelInfo info_;
  Backend& backend_;
  RopeSpec rope_;
  AttentionSpec attention_spec_;
  Weight embedding_, final_norm_, head_;
  std::vector<Layer> layers_;
  std::unique_ptr<TensorExpertStore> experts_;
  std::vector<std::unique_ptr<Buffer>> weight_buffers_;
  uint64_t weight_bytes_ = 0;

  std::unique_ptr<Buffer> workspace_;
  MoeWorkspace moe_work_;
  Mat x_, h_, q_, k_, v_, attention_, gate_, up_, last_, logits_;
};

absl::Status Qwen3Model::Bind(const ModelSource& source, const ModelOptions& options) {
  TensorBinder binder(source.weights, &backend_, options.quantize);
  const int64_t dim = config_.dim;
  embedding_ = binder.Matrix("model.embed_tokens.weight", config_.vocab, dim);
  final_norm_ = binder.Vector("model.norm.weight", dim);
  head_ =
      config_.tied_embeddings ? embedding_ : binder.Matrix("lm_head.weight", config_.vocab, dim);
  for (int i = 0; i < config_.layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    const std::string attention = prefix + "self_attn.";
    Layer& layer = layers_.emplace_back();
    layer.input_norm = binder.Vector(prefix + "input_layernorm.weight", dim);
    layer.q = binder.Matrix(attention + "q_proj.weight", q_dim(), dim);
    layer.k = binder.Matrix(attention + "k_proj.weight", kv_dim(), dim);
    layer.v = binder.Matrix(attention + "v_proj.weight", kv_dim(), dim);
    layer.o = binder.Matrix(attention + "o_proj.weight", dim, q_dim());
    layer.q_norm = binder.Vector(attention + "q_norm.weight", config_.head_dim);
    layer.k_norm = binder.Vector(attention + "k_norm.weight", config_.head_dim);
    layer.post_norm = binder.Vector(prefix + "post_attention_layernorm.weight", dim);
    if (!config_.is_moe[i]) {
      layer.gate = binder.Matrix(prefix + "mlp.gate_proj.weight", config_.ffn, dim);
      layer.up = binder.Matrix(prefix + "mlp.up_proj.weight", config_.ffn, dim);
      layer.down = binder.Matrix(prefix + "mlp.down_proj.weight", dim, config_.ffn);
    }
  }
  HOSTLER_RETURN_IF_ERROR(BindExperts(binder, options.quantize));
  weight_bytes_ = binder.bytes();
  weight_buffers_ = binder.TakeBuffers();

  attention_spec_ = {config_.heads, 1.0f / std::sqrt(static_cast<float>(config_.head_dim))};
  for (int i = 0; i < config_.head_dim; i += 2) {
    rope_.inv_freq.push_back(static_cast<float>(
        1.0 / std::pow(config_.rope_theta, static_cast<double>(i) / config_.head_dim)));
  }
  return absl::OkStatus();
}

absl::Status Qwen3Model::BindExperts(TensorBinder& binder, bool quantize) {
  const int64_t dim = config_.dim, ffn = config_.expert_ffn;
  std::vector<std::vector<ExpertTensors>> tensors;
  std::vector<Weight> gates;
  for (int i = 0; i < config_.layers; ++i) {
    if (!config_.is_moe[i]) continue;
    const std::string prefix = fmt::format("model.layers.{}.mlp.", i);
    gates.push_back(binder.MatrixAsStored(prefix + "gate.weight", config_.experts, dim));
    auto& experts = tensors.emplace_back();
    for (int e = 0; e < config_.experts; ++e) {
      const std::string name = fmt::format("{}experts.{}.", prefix, e);
      experts.push_back({binder.Check(name + "gate_proj.weight", {ffn, dim}),
                         binder.Check(name + "up_proj.weight", {ffn, dim}),
                         binder.Check(name + "down_proj.weight", {dim, ffn})});
    }
  }
  HOSTLER_RETURN_IF_ERROR(binder.status());
  if (tensors.empty()) return absl::OkStatus();
  HOSTLER_ASSIGN_OR_RETURN(experts_, TensorExpertStore::Create(tensors, dim, ffn, quantize));
  const GateSpec spec{config_.top_k, config_.normalize_weights};
  int moe_index = 0;
  for (int i = 0; i < config_.layers; ++i) {
    if (!config_.is_moe[i]) continue;
    layers_[i].moe = MoeLayer(moe_index, spec, gates[moe_index], experts_->layout());
    ++moe_index;
  }
  return absl::OkStatus();
}

int64_t Qwen3Model::dense_ffn() const {
  const bool any =
      std::find(config_.is_moe.begin(), config_.is_moe.end(), false) != config_.is_moe.end();
  return any ? config_.ffn : 0;
}

Qwen3Model::Plan Qwen3Model::PlanWorkspace(const StepLimits& limits) const {
  Plan plan;
  int64_t floats = 0;
  const auto place = [&floats](int64_t rows, int64_t cols) {
    const int64_t at = floats;
    floats += (rows * cols + 15) / 16 * 16;  // every matrix 64-byte aligned
    return at;
  };
  const int64_t rows = limits.rows;
  plan.x = place(rows, config_.dim);
  plan.h = place(rows, config_.dim);
  plan.q = place(rows, q_dim());
  plan.k = place(rows, kv_dim());
  plan.v = place(rows, kv_dim());
  plan.attention = place(rows, q_dim());
  plan.gate = place(rows, dense_ffn());
  plan.up = place(rows, dense_ffn());
  plan.last = place(limits.logit_rows, config_.dim);
  plan.logits = place(limits.logit_rows, config_.vocab);
  plan.total = floats;
  return plan;
}

uint64_t Qwen3Model::WorkspaceBytes(const StepLimits& limits) const {
  uint64_t bytes = sizeof(float) * PlanWorkspace(limits).total;
  if (experts_ != nullptr) {
    bytes +=
        MoeWorkspace::Bytes(limits.rows, limits.rows * config_.top_k, config_.experts, config_.dim);
  }
  return bytes;
}

absl::Status Qwen3Model::AllocateWorkspace(const StepLimits& limits) {
  const Plan plan = PlanWorkspace(limits);
  HOSTLER_ASSIGN_OR_RETURN(workspace_, backend_.Allocate(sizeof(float) * plan.total));
  float* base = reinterpret_cast<float*>(workspace_->data());
  const int64_t rows = limits.rows;
  x_ = {base + plan.x, rows, config_.dim};
  h_ = {base + plan.h, rows, config_.dim};
  q_ = {base + plan.q, rows, q_dim()};
  k_ = {base + plan.k, rows, kv_dim()};
  v_ = {base + plan.v, rows, kv_dim()};
  attention_ = {base + plan.attention, rows, q_dim()};
  gate_ = {base + plan.gate, rows, dense_ffn()};
  up_ = {base + plan.up, rows, dense_ffn()};
  last_ = {base + plan.last, limits.logit_rows, config_.dim};
  logits_ = {base + plan.logits, limits.logit_rows, config_.vocab};
  if (experts_ == nullptr) return absl::OkStatus();
  return moe_work_.Allocate(&backend_, limits.rows, limits.rows * config_.top_k, config_.experts,
                            config_.dim);
}

void Qwen3Model::Attend(const StepBatch& batch, int index, const KvView& kv, Mat x, Mat h) {
  const Layer& layer = layers_[index];
  const int64_t rows = x.rows;
  const Mat q = q_.first_rows(rows), k = k_.first_rows(rows), v = v_.first_rows(rows);
  const Mat attention = attention_.first_rows(rows);
  const Mat q_heads = q.reshaped(config_.head_dim), k_heads = k.reshaped(config_.head_dim);

  backend_.RmsNorm(x, layer.input_norm, config_.norm_eps, h);
  backend_.MatMul(layer.q, h, q);
  backend_.MatMul(layer.k, h, k);
  backend_.MatMul(layer.v, h, v);
  backend_.RmsNorm(q_heads, layer.q_norm, config_.norm_eps, q_heads);
  backend_.RmsNorm(k_heads, layer.k_norm, config_.norm_eps, k_heads);
  backend_.Rope(rope_, batch.positions, config_.head_dim, q);
  backend_.Rope(rope_, batch.positions, config_.head_dim, k);
  backend_.AppendKv(batch, index, k, v, kv);
  backend_.Attention(attention_spec_, batch, index, q, kv, attention);
  backend_.MatMul(layer.o, attention, h);
  backend_.Add(h, x);
}

void Qwen3Model::FeedForward(const Layer& layer, ExpertCache* cache, Mat x, Mat h,
                             StepResult* result) {
  backend_.RmsNorm(x, layer.post_norm, config_.norm_eps, h);
  if (layer.gate.data == nullptr) {
    layer.moe.Forward(backend_, *cache, moe_work_, h, x, result);
    return;
  }
  const Mat gate = gate_.first_rows(x.rows), up = up_.first_rows(x.rows);
  backend_.MatMul(layer.gate, h, gate);
  backend_.MatMul(layer.up, h, up);
  backend_.SiluMul(gate, up, gate);
  backend_.MatMul(layer.down, gate, h);
  backend_.Add(h, x);
}

void Qwen3Model::Forward(const StepBatch& batch, const KvView& kv, ExpertCache* cache,
                         StepResult* result) {
  result->row_status.clear();
  const Mat x = x_.first_rows(batch.rows()), h = h_.first_rows(batch.rows());
  backend_.Embed(embedding_, batch.tokens, x);
  for (int i = 0; i < config_.layers; ++i) {
    Attend(batch, i, kv, x, h);
    FeedForward(layers_[i], cache, x, h, result);
  }
  const int64_t wanted = static_cast<int64_t>(batch.logit_rows.size());
  result->logits.resize(wanted * config_.vocab);
  if (wanted == 0) return;
  const Mat last = last_.first_rows(wanted), logits = logits_.first_rows(wanted);
  backend_.GatherRows(x, batch.logit_rows, last);
  backend_.RmsNorm(last, final_norm_, config_.norm_eps, last);
  backend_.MatMul(head_, last, logits);
  backend_.ReadBack(logits, result->logits.data());
}

absl::StatusOr<std::unique_ptr<Model>> Create(const ModelSource& source, const ModelInfo& info,
                                              const ModelOptions& options, Backend* backend) {
  HOSTLER_ASSIGN_OR_RETURN(const Qwen3Config config, ReadConfig(*source.config));
  auto model = std::make_unique<Qwen3Model>(config, info, backend);
  HOSTLER_RETURN_IF_ERROR(model->Bind(source, options));
  return model;
}

}  // namespace

const Architecture kQwen3 = {"qwen3", "Qwen3ForCausalLM", Describe, Create};
const Architecture kQwen3Moe = {"qwen3_moe", "Qwen3MoeForCausalLM", Describe, Create};

}  // namespace hostler
