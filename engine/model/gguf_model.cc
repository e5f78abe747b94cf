#include "engine/model/gguf_model.h"

#include <array>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

struct GgufArchitecture {
  std::string_view name;        // general.architecture
  std::string_view model_type;  // ours
  std::string_view moe_type;    // ours, when there are experts; "": never
};

// "llama" serves Mistral and Mixtral too, as converters write them.
constexpr GgufArchitecture kArchitectures[] = {
    {"gemma2", "gemma2", ""},      {"gemma3", "gemma3_text", ""}, {"llama", "llama", "mixtral"},
    {"qwen2", "qwen2", ""},        {"qwen2moe", "", "qwen2_moe"}, {"qwen3", "qwen3", ""},
    {"qwen3moe", "", "qwen3_moe"},
};

// What follows "blk.N." here and "model.layers.N." there.
constexpr std::pair<std::string_view, std::string_view> kLayerNames[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {"ffn_gate_inp.weight", "mlp.gate.weight"},
    {"ffn_gate_exps.weight", "mlp.experts.gate"},
    {"ffn_up_exps.weight", "mlp.experts.up"},
    {"ffn_down_exps.weight", "mlp.experts.down"},
    {"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"},
    {"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"},
    {"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"},
    {"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"},
};

// "blk.7.attn_q.weight" → "model.layers.7.self_attn.q_proj.weight"; names that
// are not known stay. `sandwich`: Gemma has norms on both sides of each half.
std::string DecoderName(std::string_view name, bool sandwich) {
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  int layer = 0;
  const size_t dot = name.find('.', 4);
  if (!name.starts_with("blk.") || dot == std::string_view::npos ||
      std::from_chars(name.data() + 4, name.data() + dot, layer).ptr != name.data() + dot) {
    return std::string(name);
  }
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const std::string_view rest = name.substr(dot + 1);
  if (rest == "ffn_norm.weight") {
    return prefix +
           (sandwich ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight");
  }
  if (rest == "post_attention_norm.weight") return prefix + "post_attention_layernorm.weight";
  if (rest == "post_ffw_norm.weight") return prefix + "post_feedforward_layernorm.weight";
  for (const auto& [theirs, ours] : kLayerNames) {
    if (rest == theirs) return prefix + std::string(ours);
  }
  return std::string(name);
}

class RenamedSource : public WeightSource {
 public:
  RenamedSource(std::unique_ptr<GgufSource> gguf, bool sandwich) : gguf_(std::move(gguf)) {
    for (const TensorInfo& tensor : gguf_->tensors()) {
      tensors_.push_back(tensor);
      tensors_.back().name = DecoderName(tensor.name, sandwich);
    }
    for (const TensorInfo& tensor : tensors_) by_name_.emplace(tensor.name, &tensor);
  }

  std::string_view format() const override { return gguf_->format(); }
  std::span<const TensorInfo> tensors() const override { return tensors_; }
  std::span<const std::string> files() const override { return gguf_->files(); }
  const TensorInfo* Find(std::string_view name) const override {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }
  // Where the bytes lie did not change with the name.
  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    return gguf_->Data(tensor);
  }
  absl::Status Health() const override { return gguf_->Health(); }

 private:
  std::unique_ptr<GgufSource> gguf_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, const TensorInfo*> by_name_;
};

// Copies metadata into a configuration; the first problem stays.
class ConfigWriter {
 public:
  ConfigWriter(const GgufMetadata& metadata, std::string prefix)
      : metadata_(metadata), prefix_(std::move(prefix)) {}

  // `key` is below the architecture's prefix. Left out when it is missing,
  // unless it is required.
  void Int(const char* name, const std::string& key, bool required = false) {
    if (required || metadata_.Has(prefix_ + key)) Take(name, metadata_.GetInt(prefix_ + key));
  }
  void Float(const char* name, const std::string& key) {
    if (metadata_.Has(prefix_ + key)) Take(name, metadata_.GetFloat(prefix_ + key));
  }
  bool Has(const std::string& key) const { return metadata_.Has(prefix_ + key); }
  template <typename T>
  void Take(const char* name, absl::StatusOr<T> value) {
    if (value.ok()) {
      config[name] = *value;
    } else {
      status.Update(value.status());
    }
  }

  nlohmann::json config = nlohmann::json::object();
  absl::Status status;

 private:
  const GgufMetadata& metadata_;
  const std::string prefix_;
};

void WriteSizes(ConfigWriter& out) {
  out.Int("num_hidden_layers", "block_count", true);
  out.Int("max_position_embeddings", "context_length", true);
  out.Int("hidden_size", "embedding_length", true);
  out.Int("intermediate_size", "feed_forward_length", true);
  out.Int("num_attention_heads", "attention.head_count", true);
  out.Int("num_key_value_heads", "attention.head_count_kv");
  out.Int("head_dim", "attention.key_length");
  out.Int("query_pre_attn_scalar", "attention.key_length");  // Gemma's
  out.Float("rms_norm_eps", "attention.layer_norm_rms_epsilon");
  out.Float("rope_theta", "rope.freq_base");
  out.Int("sliding_window", "attention.sliding_window");
  out.Float("attn_logit_softcapping", "attn_logit_softcapping");
  out.Float("final_logit_softcapping", "final_logit_softcapping");
  out.Int("num_experts", "expert_count");
  out.Int("num_local_experts", "expert_count");
  out.Int("num_experts_per_tok", "expert_used_count");
  out.Int("moe_intermediate_size", "expert_feed_forward_length");
  out.Int("shared_expert_intermediate_size", "expert_shared_feed_forward_length");
}

absl::Status WriteRopeScaling(const GgufSource& gguf, const std::string& prefix,
                              ConfigWriter& out) {
  const GgufMetadata& metadata = gguf.metadata();
  HOSTLER_ASSIGN_OR_RETURN(const std::string_view type,
                           metadata.GetString(prefix + "rope.scaling.type", "none"));
  if (type == "linear") {
    HOSTLER_ASSIGN_OR_RETURN(const double factor,
                             metadata.GetFloat(prefix + "rope.scaling.factor", 1.0));
    out.config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", factor}};
  } else if (type != "none") {
    return absl::UnimplementedError(
        fmt::format("rope.scaling.type \"{}\" is not read from GGUF", type));
  }
  // Llama 3.1's scaling, written out as a divisor for each frequency.
  const TensorInfo* factors = gguf.Find("rope_freqs.weight");
  if (factors == nullptr) return absl::OkStatus();
  if (factors->dtype != DType::kF32) {
    return absl::InvalidArgumentError("tensor \"rope_freqs.weight\" must be f32");
  }
  std::vector<float> values(factors->bytes / sizeof(float));
  std::memcpy(values.data(), gguf.Data(*factors).data(), factors->bytes);
  out.config["rope_scaling"] = {{"rope_type", "longrope"},
                                {"short_factor", values},
                                {"long_factor", values},
                                {"attention_factor", 1.0},
                                {"factor", 1.0}};
  return absl::OkStatus();
}

absl::Status WriteEos(const GgufMetadata& metadata, ConfigWriter& out) {
  nlohmann::json ids = nlohmann::json::array();
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (!metadata.Has(key)) continue;
    HOSTLER_ASSIGN_OR_RETURN(const int64_t id, metadata.GetInt(key));
    ids.push_back(id);
  }
  if (!ids.empty()) out.config["eos_token_id"] = ids;
  return absl::OkStatus();
}

absl::StatusOr<const GgufArchitecture*> FindGgufArchitecture(const GgufMetadata& metadata) {
  HOSTLER_ASSIGN_OR_RETURN(const std::string_view name, metadata.GetString("general.architecture"));
  std::string known;
  for (const GgufArchitecture& row : kArchitectures) {
    if (row.name == name) return &row;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  return absl::UnimplementedError(
      fmt::format("GGUF architecture \"{}\" (supported: {})", name, known));
}

}  // namespace

absl::StatusOr<nlohmann::json> GgufConfig(const GgufSource& gguf) {
  const GgufMetadata& metadata = gguf.metadata();
  HOSTLER_ASSIGN_OR_RETURN(const GgufArchitecture* architecture, FindGgufArchitecture(metadata));
  const std::string prefix = fmt::format("{}.", architecture->name);
  HOSTLER_ASSIGN_OR_RETURN(const int64_t experts, metadata.GetInt(prefix + "expert_count", 0));
  const std::string_view type = experts > 0 ? architecture->moe_type : architecture->model_type;
  if (type.empty()) {
    return absl::UnimplementedError(
        fmt::format("GGUF architecture \"{}\" with {} experts", architecture->name, experts));
  }
  ConfigWriter out(metadata, prefix);
  WriteSizes(out);
  out.config["model_type"] = type;
  // Experts as wide as the network unless the file says otherwise.
  if (!out.Has("expert_feed_forward_length")) {
    out.config["moe_intermediate_size"] = out.config["intermediate_size"];
  } else if (type == "mixtral") {
    out.config["intermediate_size"] = out.config["moe_intermediate_size"];
  }
  out.config["norm_topk_prob"] = type == "qwen3_moe";
  out.config["tie_word_embeddings"] = gguf.Find("output.weight") == nullptr;
  // Llama's q and k rows were permuted so that neighbours turn together.
  if (architecture->name == "llama") out.config["rope_interleaved"] = true;
  if (type.starts_with("gemma")) {
    out.config["gain_offset"] = 0;  // converters have added the 1 to the gains
    out.config["hidden_act"] = "gelu_pytorch_tanh";
  }
  const TensorInfo* embedding = gguf.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return absl::InvalidArgumentError("tensor \"token_embd.weight\" is missing or no matrix");
  }
  out.config["vocab_size"] = embedding->shape[0];
  HOSTLER_RETURN_IF_ERROR(WriteRopeScaling(gguf, prefix, out));
  HOSTLER_RETURN_IF_ERROR(WriteEos(metadata, out));
  HOSTLER_RETURN_IF_ERROR(out.status);
  return std::move(out.config);
}

std::unique_ptr<WeightSource> RenameGgufTensors(std::unique_ptr<GgufSource> gguf) {
  const auto name = gguf->metadata().GetString("general.architecture", "");
  const bool sandwich = name.ok() && name->starts_with("gemma");
  return std::make_unique<RenamedSource>(std::move(gguf), sandwich);
}

void AdaptToGguf(DecoderConfig* config) {
  config->dense_name = config->moe_name = "mlp.";
  config->moe.gate_name = "gate";
  config->moe.shared_name = "shared_expert.";
  config->expert_names = {ExpertForm::kStacked, "experts.gate", "experts.up", "experts.down"};
}

}  // namespace hostler
