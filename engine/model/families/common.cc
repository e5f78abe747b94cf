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

}  // namespace

FamilyConfig::FamilyConfig(const nlohmann::json& json) : reader(json, "config.json") {
  DecoderConfig& d = decoder;
  d.vocab = reader.Int("vocab_size", 1, 1 << 24);
  d.dim = reader.Int("hidden_size", 1, kMostWidth);
  d.max_positions = reader.Int("max_position_embeddings", 1, 1 << 30);
  d.norm_eps = static_cast<float>(reader.Double("rms_norm_eps", 1e-6));
  d.tied_embeddings = reader.Bool("tie_word_embeddings", false);
  d.dense.dim = d.dim;
  d.dense.ffn = reader.Int("intermediate_size", 1, kMostFfn);
  d.dense.bias = reader.Bool("mlp_bias", false);
  d.moe.dim = d.dim;

  AttentionConfig attention;
  attention.dim = d.dim;
  attention.heads = reader.Int("num_attention_heads", 1, kMostHeads);
  attention.kv_heads = reader.Int("num_key_value_heads", 1, attention.heads, attention.heads);
  attention.head_dim = reader.Int("head_dim", 2, kMostHeads, std::max(2, d.dim / attention.heads));
  attention.qkv_bias = attention.o_bias = reader.Bool("attention_bias", false);
  attention.norm_eps = d.norm_eps;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  if (attention.heads % attention.kv_heads != 0) {
    reader.Fail("num_key_value_heads", "must divide num_attention_heads");
  }
  if (attention.head_dim % 2 != 0) reader.Fail("head_dim", "must be even");
  LayerConfig layer;
  layer.attention = attention;
  d.layers.assign(reader.Int("num_hidden_layers", 1, kMostLayers), layer);
  ReadRope();
}

// rope_theta and rope_scaling, or both in rope_parameters.
void FamilyConfig::ReadRope() {
  rope_theta_ = reader.Double("rope_theta", 10000.0);
  rope_scaling_ = reader.Get("rope_scaling");
  double partial = reader.Double("partial_rotary_factor", 1.0);
  if (const nlohmann::json* parameters = reader.Get("rope_parameters")) {
    ConfigReader inner(*parameters, "rope_parameters");
    rope_theta_ = inner.Double("rope_theta", rope_theta_);
    partial = inner.Double("partial_rotary_factor", partial);
    if (rope_scaling_ == nullptr) rope_scaling_ = parameters;
  }
  const int head_dim = attention().head_dim;
  double turned = head_dim * partial;
  if (!(turned >= 2 && turned <= head_dim)) {
    reader.Fail("partial_rotary_factor", "must leave from 2 to head_dim dimensions");
    turned = head_dim;  // the families go on reading, and change ropes[0]
  }
  decoder.ropes = {MakeRope(static_cast<int>(turned) / 2 * 2, rope_theta_, rope_scaling_,
                            decoder.max_positions, reader)};
  decoder.ropes[0].interleaved = reader.Bool("rope_interleaved", false);  // from GGUF
}

void FamilyConfig::ReadMoe(const char* experts_key, const char* top_k_key, const char* ffn_key) {
  MoeConfig& moe = decoder.moe;
  moe.experts = reader.Int(experts_key, 1, 65536);
  moe.gate.top_k = reader.Int(top_k_key, 1, moe.experts);
  moe.gate.normalize = false;
  decoder.expert_ffn = reader.Int(ffn_key, 1, kMostFfn);
  for (LayerConfig& layer : decoder.layers) layer.moe = true;
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

void FamilyConfig::ReadQwenWindow() {
  if (!reader.Bool("use_sliding_window", false)) return;
  const int window = reader.Int("sliding_window", 1, 1 << 30, 4096);
  const int first = reader.Int("max_window_layers", 0, 1 << 20, 28);
  ReadSlidingLayers(window, [first](int layer) { return layer >= first; });
}

absl::StatusOr<DecoderConfig> FamilyConfig::Finish() {
  const std::string activation =
      reader.String("hidden_act", reader.String("hidden_activation", "silu"));
  const Activation expected = decoder.dense.activation.kind;
  const bool known = expected == Activation::kGeluTanh
                         ? activation == "gelu_pytorch_tanh" || activation == "gelu_tanh"
                         : activation == "silu" || activation == "swish";
  if (!known) {
    reader.Fail("hidden_act",
                fmt::format("is \"{}\", which this family does not have", activation));
  }
  HOSTLER_RETURN_IF_ERROR(reader.status());
  return std::move(decoder);
}

}  // namespace hostler
