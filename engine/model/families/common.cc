#include "engine/model/families/common.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/base/status.h"
#include "engine/model/rope.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr int kMostLayers = 4096;
constexpr int kMostExperts = 65536;

}  // namespace

FamilyConfig::FamilyConfig(const nlohmann::json& json, const FamilyDefaults& defaults)
    : reader(json, "config.json"), defaults_(defaults) {
  DecoderConfig& d = decoder;
  d.vocab = reader.Int("vocab_size", 1, 1 << 24);
  d.dim = reader.Int("hidden_size", 1, kMostWidth);
  d.max_positions = reader.Int("max_position_embeddings", 1, 1 << 30);
  d.norm_eps = static_cast<float>(reader.Double("rms_norm_eps", defaults.norm_eps));
  d.tied_embeddings = reader.Bool("tie_word_embeddings", false);
  d.dense.dim = d.dim;
  d.dense.ffn = reader.Int("intermediate_size", 1, kMostFfn);
  d.dense.bias = reader.Bool("mlp_bias", false);
  d.moe.dim = d.dim;

  AttentionConfig attention;
  attention.dim = d.dim;
  attention.heads = reader.Int("num_attention_heads", 1, kMostHeads);
  attention.kv_heads = reader.Int("num_key_value_heads", 1, attention.heads, attention.heads);
  const int head_dim =
      defaults.head_dim > 0 ? defaults.head_dim : std::max(2, d.dim / attention.heads);
  attention.head_dim = reader.Int("head_dim", 2, kMostHeads, head_dim);
  attention.qkv_bias = attention.o_bias = reader.Bool("attention_bias", false);
  attention.norm_eps = d.norm_eps;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  if (attention.heads % attention.kv_heads != 0) {
    reader.Fail("num_key_value_heads", "must divide num_attention_heads");
  }
  LayerConfig layer;
  layer.attention = attention;
  d.layers.assign(reader.Int("num_hidden_layers", 1, kMostLayers), layer);
  rope_scaling_ = RopeParameters();
  d.ropes = {ReadRope(rope_scaling_, defaults.rope_theta)};
  d.ropes[0].interleaved = reader.Bool("rope_interleaved", false);  // from GGUF
}

// rope_scaling, or the newer rope_parameters; both may have the rest with them.
const nlohmann::json* FamilyConfig::RopeParameters() {
  const bool older = reader.Has("rope_scaling") && !reader.Get("rope_scaling")->empty();
  const char* key = older ? "rope_scaling" : "rope_parameters";
  const nlohmann::json* parameters = reader.Get(key);
  if (parameters == nullptr || parameters->empty()) return nullptr;
  if (!parameters->is_object()) reader.Fail(key, "must be an object");
  const ConfigReader inner(*parameters, key);
  const nlohmann::json* full = inner.Get("full_attention");
  const bool by_layer_type = full != nullptr || inner.Has("sliding_attention");
  if (by_layer_type && (older || !defaults_.rope_by_layer_type)) {
    reader.Fail(key, "differs between layer types, which is not supported in this family");
  } else if (!by_layer_type && !older && defaults_.rope_by_layer_type) {
    reader.Fail(key, "must have a part for each layer type");
  }
  return by_layer_type ? full : parameters;
}

RopeSpec FamilyConfig::ReadRope(const nlohmann::json* parameters, double theta) {
  theta = reader.Double("rope_theta", theta);
  double partial = reader.Double("partial_rotary_factor",
                                 defaults_.partial_rotary > 0 ? defaults_.partial_rotary : 1.0);
  if (parameters != nullptr) {
    ConfigReader inner(*parameters, "rope_parameters");
    theta = inner.Double("rope_theta", theta);
    partial = inner.Double("partial_rotary_factor", partial);
    if (!inner.status().ok()) {
      reader.Fail("rope_parameters", std::string(inner.status().message()));
    }
  }
  const int dims = TurnedDimensions(partial);
  return dims > 0 ? MakeRope(dims, theta, parameters, decoder.max_positions, reader) : RopeSpec();
}

// 0, and a problem noted, when it makes no sense.
int FamilyConfig::TurnedDimensions(double partial) {
  if (defaults_.rope_dims_key != nullptr) {
    return reader.Int(defaults_.rope_dims_key, 2, kMostHeads);
  }
  const int head_dim = attention().head_dim;
  if (head_dim % 2 != 0) reader.Fail("head_dim", "must be even");
  if (reader.Has("rotary_dim")) {  // MiniMax and GGUF say how many, others which part
    const int dims = reader.Int("rotary_dim", 2, head_dim);
    if (dims % 2 != 0) reader.Fail("rotary_dim", "must be even");
    return dims;
  }
  if (defaults_.partial_rotary == 0 && partial != 1) {
    reader.Fail("partial_rotary_factor", "is not 1, which this family's is");
    return 0;
  }
  const double turned = head_dim * partial;
  if (turned >= 2 && turned <= head_dim) return static_cast<int>(turned);
  reader.Fail("partial_rotary_factor", "must leave from 2 to head_dim dimensions");
  return 0;
}

void FamilyConfig::ReadMoe(const char* experts_key, const char* top_k_key, const char* ffn_key) {
  MoeConfig& moe = decoder.moe;
  moe.experts = reader.Int(experts_key, 1, kMostExperts);
  ReadWeightlessExperts();
  moe.gate.top_k = reader.Int(top_k_key, 1, moe.choices());
  moe.gate.normalize = false;
  decoder.expert_ffn = reader.Int(ffn_key, 1, kMostFfn);
  for (LayerConfig& layer : decoder.layers) layer.moe = true;
}

// Every kind has its key; LongCat-Flash's zero_expert_num counts copies.
void FamilyConfig::ReadWeightlessExperts() {
  MoeConfig& moe = decoder.moe;
  moe.constants = reader.Int("num_constant_experts", 0, kMostExperts, 0);
  moe.copies = reader.Int("num_copy_experts", 0, kMostExperts, 0);
  moe.gate.idle = reader.Int("num_zero_experts", 0, kMostExperts, 0) +
                  reader.Int("num_null_experts", 0, kMostExperts, 0);
  if (const int zero = reader.Int("zero_expert_num", 0, kMostExperts, 0); zero > 0) {
    moe.copies += zero;
    if (reader.String("zero_expert_type", "identity") != "identity") {
      reader.Fail("zero_expert_type", "is not \"identity\", which is not supported");
    }
  }
  moe.gate_residual = reader.Bool("gate_residual", false);
  moe.gate.top_p = static_cast<float>(reader.Double("top_p_threshold", 0));
  if (!(moe.gate.top_p >= 0 && moe.gate.top_p <= 1)) {
    reader.Fail("top_p_threshold", "must be from 0 to 1");
  }
}

// What of it does not go together; known when all of a family is read.
void FamilyConfig::CheckGate() {
  const MoeConfig& moe = decoder.moe;
  const bool weightless = moe.choices() > moe.experts;
  if (weightless && moe.gate.groups > 1) {
    reader.Fail("n_group", "is not supported with experts that have no weights");
  }
  if (moe.constants > 0 && moe.weigh_input) {
    reader.Fail("num_constant_experts", "are not supported where weights multiply the input");
  }
  if (moe.gate.top_p > 0 && moe.gate.score != GateSpec::Score::kSoftmax) {
    reader.Fail("top_p_threshold", "needs a gate of probabilities, which this family's is not");
  }
}

void FamilyConfig::AddSharedExpert(int ffn, const std::string& name) {
  if (ffn == 0) return;
  GatedMlpConfig shared = decoder.dense;
  shared.ffn = ffn;
  decoder.moe.shared = shared;
  decoder.moe.shared_name = name;
}

void FamilyConfig::ReadSparseSteps() {
  const int step = reader.Int("decoder_sparse_step", 1, 1 << 20, 1);
  const std::vector<int64_t> listed = reader.Ints("mlp_only_layers", {});
  const std::set<int64_t> dense(listed.begin(), listed.end());
  for (int i = 0; i < num_layers(); ++i) {
    decoder.layers[i].moe = (i + 1) % step == 0 && !dense.contains(i);
  }
}

void FamilyConfig::ReadWindow(int missing) {
  const int none = reader.IsNull("sliding_window") ? 0 : missing;
  SlideLayers(reader.Int("sliding_window", 1, 1 << 30, none), [](int) { return true; });
}

void FamilyConfig::ReadQwenWindow() {
  if (!reader.Bool("use_sliding_window", false)) return;
  const int window = reader.Int("sliding_window", 1, 1 << 30, 4096);
  const int first = reader.Int("max_window_layers", 0, 1 << 20, 28);
  ReadSlidingLayers(window, [first](int layer) { return layer >= first; });
}

absl::StatusOr<DecoderConfig> FamilyConfig::Finish() {
  const Activation expected = decoder.dense.activation.kind;
  const char* missing = expected == Activation::kGeluTanh ? "gelu_pytorch_tanh" : "silu";
  const std::string activation =
      reader.String("hidden_activation", reader.String("hidden_act", missing));
  const bool known = expected == Activation::kGeluTanh
                         ? activation == "gelu_pytorch_tanh" || activation == "gelu_tanh"
                         : activation == "silu" || activation == "swish";
  if (!known) {
    reader.Fail("hidden_act",
                fmt::format("is \"{}\", which this family does not have", activation));
  }
  CheckGate();
  HOSTLER_RETURN_IF_ERROR(reader.status());
  return std::move(decoder);
}

}  // namespace hostler
