// GGUF metadata as a config.json: tables of architectures and keys, and what
// takes more than a table.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/model/gguf_model.h"
#include "engine/model/gguf_names.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// Values of expert_gating_func.
enum Gating { kAny = 0, kSoftmax = 1, kSigmoid = 2, kChosenSoftmax = 3 };

struct Row {
  std::string_view name;  // general.architecture
  bool experts;           // expert_count is above 0
  Gating gating;          // what its gate does; files of the first row need not say so
  std::string_view model_type;
  // What every file of this kind means without saying it.
  const char* constants = "{}";
};

constexpr char kGemma[] = R"({"gain_offset": 0, "hidden_act": "gelu_pytorch_tanh"})";

// "llama" serves Mistral and Mixtral too. Converters have permuted Llama's q
// and k so that neighbours turn together, and added 1 to the gains of Gemma and
// Qwen3-Next.
constexpr Row kRows[] = {
    {"deepseek2", true, kSoftmax, "deepseek_v2", R"({"topk_method": "group_limited_greedy"})"},
    {"deepseek2", true, kSigmoid, "deepseek_v3", R"({"norm_topk_prob": false})"},
    {"ernie4_5-moe", true, kSoftmax, "ernie4_5_moe"},
    {"gemma2", false, kAny, "gemma2", kGemma},
    {"gemma3", false, kAny, "gemma3_text", kGemma},
    {"glm4moe", true, kSigmoid, "glm4_moe", R"({"norm_topk_prob": false})"},
    {"gpt-oss", true, kChosenSoftmax, "gpt_oss", R"({"rope_scaling": {"truncate": false}})"},
    {"granite", false, kAny, "granite", R"({"rope_interleaved": true})"},
    {"granitemoe", true, kChosenSoftmax, "granitemoe", R"({"rope_interleaved": true})"},
    {"llama", false, kAny, "llama", R"({"rope_interleaved": true})"},
    {"llama", true, kSoftmax, "mixtral", R"({"rope_interleaved": true})"},
    {"llama4", true, kSigmoid, "llama4_text"},
    {"minimax-m2", true, kSigmoid, "minimax_m2"},
    {"olmoe", true, kSoftmax, "olmoe"},
    {"phi3", false, kAny, "phi3"},
    {"phimoe", true, kAny, "phimoe"},
    {"qwen2", false, kAny, "qwen2"},
    {"qwen2moe", true, kSoftmax, "qwen2_moe"},
    {"qwen3", false, kAny, "qwen3"},
    {"qwen3moe", true, kSoftmax, "qwen3_moe", R"({"norm_topk_prob": true})"},
    {"qwen3next", true, kSoftmax, "qwen3_next", R"({"gain_offset": 0})"},
};

// Converters write 0 for what a model does not have.
enum class Kind { kRequired, kInt, kFloat, kBool };

struct Key {
  const char* ours;
  std::string_view theirs;  // below "architecture."
  Kind kind;
  std::string_view architectures = "";  // only there
};

// Later rows replace earlier ones. Families look only at the names they know.
constexpr Key kKeys[] = {
    {"num_hidden_layers", "block_count", Kind::kRequired},
    {"max_position_embeddings", "context_length", Kind::kRequired},
    {"hidden_size", "embedding_length", Kind::kRequired},
    {"intermediate_size", "feed_forward_length", Kind::kRequired},
    {"num_attention_heads", "attention.head_count", Kind::kRequired},
    {"num_key_value_heads", "attention.head_count_kv", Kind::kInt},
    {"head_dim", "attention.key_length", Kind::kInt},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Kind::kFloat},
    {"rope_theta", "rope.freq_base", Kind::kFloat},
    {"rotary_dim", "rope.dimension_count", Kind::kInt},
    {"rope_local_base_freq", "rope.freq_base_swa", Kind::kFloat, "gemma3"},
    {"original_max_position_embeddings", "rope.scaling.original_context_length", Kind::kInt},
    {"sliding_window", "attention.sliding_window", Kind::kInt},
    {"attention_chunk_size", "attention.sliding_window", Kind::kInt, "llama4"},
    {"attn_scale", "attention.temperature_scale", Kind::kFloat, "llama4"},
    {"floor_scale", "attention.temperature_length", Kind::kInt, "llama4"},
    {"attn_logit_softcapping", "attn_logit_softcapping", Kind::kFloat},
    {"final_logit_softcapping", "final_logit_softcapping", Kind::kFloat},
    {"attention_multiplier", "attention.scale", Kind::kFloat, "granite granitemoe"},
    {"embedding_multiplier", "embedding_scale", Kind::kFloat, "granite granitemoe"},
    {"residual_multiplier", "residual_scale", Kind::kFloat, "granite granitemoe"},
    {"logits_scaling", "logit_scale", Kind::kFloat, "granite granitemoe"},
    // Experts, in every family's words.
    {"num_experts", "expert_count", Kind::kInt},
    {"num_local_experts", "expert_count", Kind::kInt},
    {"n_routed_experts", "expert_count", Kind::kInt},
    {"moe_num_experts", "expert_count", Kind::kInt},
    {"num_experts_per_tok", "expert_used_count", Kind::kInt},
    {"moe_k", "expert_used_count", Kind::kInt},
    {"moe_intermediate_size", "feed_forward_length", Kind::kInt},
    {"moe_intermediate_size", "expert_feed_forward_length", Kind::kInt},
    {"intermediate_size", "expert_feed_forward_length", Kind::kInt, "gpt-oss"},
    {"intermediate_size", "expert_feed_forward_length", Kind::kInt, "llama"},
    {"intermediate_size", "expert_feed_forward_length", Kind::kInt, "llama4"},
    {"intermediate_size_mlp", "feed_forward_length", Kind::kInt, "llama4"},
    {"intermediate_size", "expert_feed_forward_length", Kind::kInt, "minimax-m2"},
    {"shared_expert_intermediate_size", "feed_forward_length", Kind::kInt},
    {"shared_expert_intermediate_size", "expert_shared_feed_forward_length", Kind::kInt},
    {"n_shared_experts", "expert_shared_count", Kind::kInt},
    {"moe_num_shared_experts", "expert_shared_count", Kind::kInt},
    {"first_k_dense_replace", "leading_dense_block_count", Kind::kInt},
    {"moe_layer_start_index", "leading_dense_block_count", Kind::kInt},
    {"moe_layer_interval", "interleave_moe_layer_step", Kind::kInt},
    {"interleave_moe_layer_step", "interleave_moe_layer_step", Kind::kInt},
    {"n_group", "expert_group_count", Kind::kInt},
    {"topk_group", "expert_group_used_count", Kind::kInt},
    {"routed_scaling_factor", "expert_weights_scale", Kind::kFloat},
    {"norm_topk_prob", "expert_weights_norm", Kind::kBool},
    // Multi-head latent attention.
    {"q_lora_rank", "attention.q_lora_rank", Kind::kInt, "deepseek2"},
    {"kv_lora_rank", "attention.kv_lora_rank", Kind::kRequired, "deepseek2"},
    {"qk_rope_head_dim", "rope.dimension_count", Kind::kRequired, "deepseek2"},
    {"v_head_dim", "attention.value_length", Kind::kInt, "deepseek2"},
    {"v_head_dim", "attention.value_length_mla", Kind::kInt, "deepseek2"},
    // The gated delta net.
    {"linear_conv_kernel_dim", "ssm.conv_kernel", Kind::kRequired, "qwen3next"},
    {"linear_key_head_dim", "ssm.state_size", Kind::kRequired, "qwen3next"},
    {"linear_num_key_heads", "ssm.group_count", Kind::kRequired, "qwen3next"},
    {"linear_num_value_heads", "ssm.time_step_rank", Kind::kRequired, "qwen3next"},
    {"linear_value_head_dim", "ssm.inner_size", Kind::kRequired, "qwen3next"},
    {"full_attention_interval", "full_attention_interval", Kind::kInt, "qwen3next"},
};

// Keys that change what is computed, and the architectures where we know how.
// A file of another one must have the value that changes nothing, or none.
constexpr struct {
  std::string_view key, architectures;
  double neutral = 0;
} kLimitedKeys[] = {
    {"attention.clamp_kqv", ""},
    {"attention.max_alibi_bias", ""},
    {"attention.scale", "gemma2 gemma3 granite granitemoe"},
    {"attention.sliding_window", "gemma2 gemma3 gpt-oss llama4 phi3 phimoe"},
    {"attention.temperature_length", "llama4"},
    {"attention.temperature_scale", "llama4"},
    {"attn_logit_softcapping", "gemma2"},
    {"embedding_scale", "granite granitemoe", 1},
    {"expert_shared_count", "deepseek2 ernie4_5-moe glm4moe"},
    {"expert_shared_feed_forward_length", "ernie4_5-moe qwen2moe qwen3next"},
    {"expert_weights_scale", "deepseek2 glm4moe", 1},
    {"final_logit_softcapping", "gemma2 gemma3"},
    {"logit_scale", "granite granitemoe", 1},
    {"residual_scale", "granite granitemoe", 1},
    {"rope.scale_linear", "", 1},
    {"rope.scaling.yarn_ext_factor", "", 1},
    {"rope.scaling.yarn_log_multiplier", "deepseek2"},
};

bool Lists(std::string_view names, std::string_view name) {
  for (size_t at = names.find(name); at != std::string_view::npos; at = names.find(name, at + 1)) {
    const size_t end = at + name.size();
    if ((at == 0 || names[at - 1] == ' ') && (end == names.size() || names[end] == ' ')) {
      return true;
    }
  }
  return false;
}

// A file's metadata below "architecture.", on its way to a configuration. The
// first problem stays in status.
class Conversion {
 public:
  Conversion(const GgufSource& gguf, const Row& row)
      : gguf_(gguf), row_(row), prefix_(fmt::format("{}.", row.name)) {
    config = nlohmann::json::parse(row.constants);
    config["model_type"] = row.model_type;
  }

  void WriteKeys();
  void CheckLimits();
  void CheckTensors();
  // What tensors say by being there.
  void WritePresence();
  void WriteLayers();
  void WriteAttention();
  void WriteRope();
  void WriteEos();

  nlohmann::json config;
  absl::Status status;

 private:
  const GgufMetadata& metadata() const { return gguf_.metadata(); }
  bool Has(std::string_view key) const { return metadata().Has(prefix_ + std::string(key)); }
  bool HasTensor(std::string_view name) const { return gguf_.Find(name) != nullptr; }
  // A size or number of things.
  int64_t Int(std::string_view key, int64_t fallback) {
    const int64_t value = Take(metadata().GetInt(prefix_ + std::string(key), fallback), fallback);
    if (value >= 0 && value <= INT32_MAX) return value;
    Fail(key, fmt::format("is {}, must be from 0 to {}", value, INT32_MAX));
    return fallback;
  }
  double Float(std::string_view key, double fallback) {
    return Take(metadata().GetFloat(prefix_ + std::string(key), fallback), fallback);
  }
  template <typename T>
  T Take(absl::StatusOr<T> value, T fallback) {
    if (value.ok()) return *std::move(value);
    status.Update(value.status());
    return fallback;
  }
  void Fail(std::string_view key, std::string_view problem) {
    status.Update(
        absl::InvalidArgumentError(fmt::format("key \"{}{}\" {}", prefix_, key, problem)));
  }
  // The layers for which a list of bools says so, named in layer_types.
  void WriteLayerTypes(std::string_view key, const char* yes, const char* no);
  std::vector<float> RopeFactors(const char* tensor);

  const GgufSource& gguf_;
  const Row& row_;
  const std::string prefix_;
};

void Conversion::WriteKeys() {
  for (const Key& key : kKeys) {
    if (!key.architectures.empty() && !Lists(key.architectures, row_.name)) continue;
    const std::string name = prefix_ + std::string(key.theirs);
    if (key.kind != Kind::kRequired && !metadata().Has(name)) continue;
    if (key.kind == Kind::kFloat) {
      config[key.ours] = Take(metadata().GetFloat(name), 0.0);
    } else if (key.kind == Kind::kBool) {
      config[key.ours] = Take(metadata().GetBool(name), false);
    } else {
      const int64_t value = Take(metadata().GetInt(name), int64_t{0});
      if (value != 0 || key.kind == Kind::kRequired) config[key.ours] = value;
    }
  }
}

void Conversion::CheckLimits() {
  for (const auto& limited : kLimitedKeys) {
    if (!Has(limited.key) || Lists(limited.architectures, row_.name)) continue;
    const double value = Float(limited.key, 0);
    if (value == 0 || value == limited.neutral) continue;
    status.Update(absl::UnimplementedError(
        fmt::format("key \"{}{}\" is {}, which is not supported", prefix_, limited.key, value)));
  }
}

void Conversion::CheckTensors() {
  for (const TensorInfo& tensor : gguf_.tensors()) {
    if (IsLeftOut(tensor.name) || FindDecoderName(row_.name, tensor.name).has_value()) continue;
    status.Update(absl::UnimplementedError(fmt::format(
        "tensor \"{}\" is not known in GGUF architecture \"{}\"", tensor.name, row_.name)));
    return;
  }
}

void Conversion::WritePresence() {
  const bool biased = HasTensor("blk.0.attn_q.bias");
  config["attention_bias"] = biased;
  config["use_bias"] = biased;
  config["mlp_bias"] = HasTensor("blk.0.ffn_up.bias");
  config["lm_head_bias"] = HasTensor("output.bias");
  config["tie_word_embeddings"] = !HasTensor("output.weight");
  // Llama 4's norms of q and k have no tensors; the larger model has none.
  config["use_qk_norm"] =
      row_.name == "llama4" ? Int("expert_count", 0) != 128 : HasTensor("blk.0.attn_q_norm.weight");
  const TensorInfo* embedding = gguf_.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    status.Update(
        absl::InvalidArgumentError("tensor \"token_embd.weight\" is missing or no matrix"));
    return;
  }
  config["vocab_size"] = embedding->shape[0];
}

void Conversion::WriteLayerTypes(std::string_view key, const char* yes, const char* no) {
  if (!Has(key)) return;
  const auto flags = metadata().GetInts(prefix_ + std::string(key));
  if (!flags.ok()) return status.Update(flags.status());
  nlohmann::json types = nlohmann::json::array();
  for (const int64_t flag : *flags) types.push_back(flag != 0 ? yes : no);
  const int64_t layers = Int("block_count", 0);
  if (static_cast<int64_t>(types.size()) != layers) {
    return Fail(key, fmt::format("has {} values, there are {} layers", types.size(), layers));
  }
  types.erase(types.begin() + config.value("num_hidden_layers", int64_t{0}), types.end());
  config["layer_types"] = types;
}

void Conversion::WriteLayers() {
  // The last ones predict further tokens.
  const int64_t layers = Int("block_count", 0), extra = Int("nextn_predict_layers", 0);
  if (extra > 0 && extra >= layers) {
    return Fail("nextn_predict_layers", fmt::format("is {}, of {} layers", extra, layers));
  }
  config["num_hidden_layers"] = layers - extra;
  constexpr std::string_view kPattern = "attention.sliding_window_pattern";
  if (Has(kPattern) && !Lists("gemma2 gemma3 gpt-oss", row_.name)) {
    Fail(kPattern, "is not supported");
  } else if (Has(kPattern) && metadata().GetInt(prefix_ + std::string(kPattern)).ok()) {
    config["sliding_window_pattern"] = Int(kPattern, 1);
    if (row_.name != "gemma3") Fail(kPattern, "must be a list");
  } else {
    WriteLayerTypes(kPattern, "sliding_attention", "full_attention");
  }
  WriteLayerTypes("attention.recurrent_layers", "linear_attention", "full_attention");
}

void Conversion::WriteAttention() {
  if (row_.name == "deepseek2") {
    // Files that hold k_b and v_b apart give the lengths of heads twice: as the
    // latents that are cached, and ("mla") as the model means them.
    const int64_t head = Int("attention.key_length_mla", Int("attention.key_length", 0));
    config["qk_nope_head_dim"] = head - Int("rope.dimension_count", 0);
    config.erase("head_dim");
    config.erase("rotary_dim");
    return;
  }
  if (Int("attention.value_length", 0) != Int("attention.key_length", 0)) {
    Fail("attention.value_length", "is not attention.key_length, which is not supported");
  }
  if (row_.name == "qwen3next") {
    const int64_t heads = Int("ssm.time_step_rank", 0), width = Int("ssm.inner_size", 0);
    if (heads <= 0 || width % heads != 0) {
      return Fail("ssm.inner_size", "is no multiple of ssm.time_step_rank");
    }
    config["linear_value_head_dim"] = width / heads;
  } else if (row_.name.starts_with("gemma")) {
    // The scores' scale has no key: it is a head's width, but in the 27B models
    // the model's width by heads.
    const int64_t layers = Int("block_count", 0), heads = Int("attention.head_count", 0);
    const bool by_width = layers == (row_.name == "gemma2" ? 46 : 62) && heads > 0;
    config["query_pre_attn_scalar"] =
        by_width ? Int("embedding_length", 0) / heads : Int("attention.key_length", 0);
    const double scale = Float("attention.scale", 0);
    if (scale != 0) config["query_pre_attn_scalar"] = std::pow(scale, -2);
  }
}

std::vector<float> Conversion::RopeFactors(const char* tensor) {
  const TensorInfo* factors = gguf_.Find(tensor);
  if (factors == nullptr || factors->dtype != DType::kF32 || factors->bytes == 0) {
    status.Update(absl::InvalidArgumentError(
        fmt::format("tensor \"{}\" is missing, empty or not f32", tensor)));
    return {};
  }
  std::vector<float> values(factors->bytes / sizeof(float));
  std::memcpy(values.data(), gguf_.Data(*factors).data(), factors->bytes);
  return values;
}

void Conversion::WriteRope() {
  // What a file leaves out is the format's default, not the family's.
  if (!config.contains("rope_theta")) config["rope_theta"] = 10000.0;
  nlohmann::json scaling = config.value("rope_scaling", nlohmann::json::object());
  const std::string key = prefix_ + "rope.scaling.type";
  const std::string_view type = Take(metadata().GetString(key, "none"), std::string_view("none"));
  if (HasTensor("rope_factors_long.weight") || type == "longrope") {
    scaling["rope_type"] = "longrope";
    scaling["short_factor"] = RopeFactors("rope_factors_short.weight");
    scaling["long_factor"] = RopeFactors("rope_factors_long.weight");
    if (Has("rope.scaling.attn_factor")) {
      scaling["attention_factor"] = Float("rope.scaling.attn_factor", 1);
    }
  } else if (HasTensor("rope_freqs.weight")) {
    // Llama 3.1's scaling, written out as a divisor for each frequency.
    scaling["rope_type"] = "longrope";
    scaling["short_factor"] = scaling["long_factor"] = RopeFactors("rope_freqs.weight");
    scaling["attention_factor"] = scaling["factor"] = 1.0;
  } else if (type == "linear" || type == "yarn") {
    scaling["rope_type"] = type;
    scaling["factor"] = Float("rope.scaling.factor", 1);
    for (const auto& [ours, theirs] : {std::pair{"beta_fast", "rope.scaling.yarn_beta_fast"},
                                       {"beta_slow", "rope.scaling.yarn_beta_slow"},
                                       {"attention_factor", "rope.scaling.yarn_attn_factor"}}) {
      if (Has(theirs)) scaling[ours] = Float(theirs, 0);
    }
    if (Has("rope.scaling.original_context_length")) {
      scaling["original_max_position_embeddings"] = Int("rope.scaling.original_context_length", 0);
    }
    if (Has("rope.scaling.yarn_log_multiplier")) {
      // A tenth of mscale_all_dim; published models' mscale is the same.
      const double all = 10 * Float("rope.scaling.yarn_log_multiplier", 0);
      scaling["mscale"] = scaling["mscale_all_dim"] = all;
    }
  } else if (type != "none") {
    status.Update(absl::UnimplementedError(
        fmt::format("key \"{}\" is \"{}\", which is not supported", key, type)));
  }
  config.erase("rope_scaling");
  if (scaling.contains("rope_type")) config["rope_scaling"] = scaling;
}

void Conversion::WriteEos() {
  nlohmann::json ids = nlohmann::json::array();
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (metadata().Has(key)) ids.push_back(Take(metadata().GetInt(key), int64_t{0}));
  }
  if (!ids.empty()) config["eos_token_id"] = ids;
}

absl::StatusOr<const Row*> FindGgufRow(const GgufMetadata& metadata) {
  HOSTLER_ASSIGN_OR_RETURN(const std::string_view name, metadata.GetString("general.architecture"));
  const std::string gating_key = fmt::format("{}.expert_gating_func", name);
  HOSTLER_ASSIGN_OR_RETURN(const int64_t experts,
                           metadata.GetInt(fmt::format("{}.expert_count", name), 0));
  HOSTLER_ASSIGN_OR_RETURN(const int64_t gating, metadata.GetInt(gating_key, kAny));
  std::string known;
  bool named = false, right_experts = false;
  for (const Row& row : kRows) {
    if (!known.ends_with(row.name)) {
      known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
    }
    if (row.name != name) continue;
    named = true;
    if (row.experts != (experts > 0)) continue;
    right_experts = true;
    if (gating == kAny || row.gating == kAny || row.gating == gating) return &row;
  }
  if (right_experts) {
    return absl::UnimplementedError(
        fmt::format("key \"{}\" is {}, which is not supported", gating_key, gating));
  }
  if (named) {
    return absl::UnimplementedError(
        fmt::format("GGUF architecture \"{}\" with {} experts", name, experts));
  }
  return absl::UnimplementedError(
      fmt::format("GGUF architecture \"{}\" (supported: {})", name, known));
}

}  // namespace

absl::StatusOr<nlohmann::json> GgufConfig(const GgufSource& gguf) {
  HOSTLER_ASSIGN_OR_RETURN(const Row* row, FindGgufRow(gguf.metadata()));
  Conversion conversion(gguf, *row);
  conversion.WriteKeys();
  conversion.CheckLimits();
  conversion.CheckTensors();
  conversion.WritePresence();
  conversion.WriteLayers();
  conversion.WriteAttention();
  conversion.WriteRope();
  conversion.WriteEos();
  HOSTLER_RETURN_IF_ERROR(conversion.status);
  return std::move(conversion.config);
}

absl::Status InGgufTerms(const absl::Status& status, const GgufMetadata& metadata) {
  const auto name = metadata.GetString("general.architecture", "");
  const std::string architecture(name.ok() ? *name : "");
  const std::string message(status.message());
  constexpr std::string_view kTensor = "tensor \"";
  if (message.starts_with(kTensor)) {
    const size_t end = std::min(message.find('"', kTensor.size()), message.size());
    const std::string ours = message.substr(kTensor.size(), end - kTensor.size());
    return absl::Status(
        status.code(),
        fmt::format("{}{}{}", kTensor, FindGgufName(architecture, ours), message.substr(end)));
  }
  for (const Key& key : kKeys) {
    if (!key.architectures.empty() && !Lists(key.architectures, architecture)) continue;
    const std::string theirs = fmt::format("{}.{}", architecture, key.theirs);
    const std::string ours = fmt::format("config.json: \"{}\"", key.ours);
    if (!message.starts_with(ours) || !metadata.Has(theirs)) continue;
    return absl::Status(status.code(),
                        fmt::format("key \"{}\"{}", theirs, message.substr(ours.size())));
  }
  return status;
}

}  // namespace hostler
