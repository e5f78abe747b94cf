#include "engine/model/gguf_names.h"

#include <charconv>

#include "fmt/format.h"

namespace hostler {
namespace {

constexpr std::string_view kLayer = "blk.", kDecoderLayer = "model.layers.";

struct NameRow {
  std::string_view theirs, ours;
  bool flattened = false;
};

constexpr NameRow kModelNames[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output_norm.bias", "model.norm.bias"},
    {"output.weight", "lm_head.weight"},
    {"output.bias", "lm_head.bias"},
};

// What follows "blk.N." there and "model.layers.N." here.
constexpr NameRow kLayerNames[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_norm.bias", "input_layernorm.bias"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_output.bias", "self_attn.o_proj.bias"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"attn_sinks.weight", "self_attn.sinks"},
    {"attn_q_a.weight", "self_attn.q_a_proj.weight"},
    {"attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight"},
    {"attn_q_b.weight", "self_attn.q_b_proj.weight"},
    {"attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight"},
    {"attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"},
    {"attn_kv_b.weight", "self_attn.kv_b_proj.weight"},
    {"attn_k_b.weight", "self_attn.k_b_proj.weight", true},
    {"attn_v_b.weight", "self_attn.v_b_proj.weight", true},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_norm.bias", "post_attention_layernorm.bias"},
    {"post_ffw_norm.weight", "post_feedforward_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {"ffn_gate.bias", "mlp.gate_proj.bias"},
    {"ffn_up.bias", "mlp.up_proj.bias"},
    {"ffn_down.bias", "mlp.down_proj.bias"},
    {"ffn_gate_inp.weight", "mlp.gate.weight"},
    {"ffn_gate_inp.bias", "mlp.gate.bias"},
    {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias"},
    {"ffn_gate_exps.weight", "mlp.experts.gate"},
    {"ffn_up_exps.weight", "mlp.experts.up"},
    {"ffn_down_exps.weight", "mlp.experts.down"},
    {"ffn_gate_exps.bias", "mlp.experts.gate_bias"},
    {"ffn_up_exps.bias", "mlp.experts.up_bias"},
    {"ffn_down_exps.bias", "mlp.experts.down_bias"},
    {"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"},
    {"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"},
    {"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"},
    {"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"},
};

// Where an architecture uses a name otherwise, or has names of its own. Gemma
// has norms on both sides of each half of a layer, others call the one before
// the network by what it stands after; Phi-3's projections are fused.
constexpr struct {
  std::string_view architecture;
  NameRow name;
} kOwnNames[] = {
    {"gemma2", {"ffn_norm.weight", "pre_feedforward_layernorm.weight"}},
    {"gemma3", {"ffn_norm.weight", "pre_feedforward_layernorm.weight"}},
    {"gemma2", {"post_attention_norm.weight", "post_attention_layernorm.weight"}},
    {"gemma3", {"post_attention_norm.weight", "post_attention_layernorm.weight"}},
    {"glm4moe", {"post_attention_norm.weight", "post_attention_layernorm.weight"}},
    {"gpt-oss", {"post_attention_norm.weight", "post_attention_layernorm.weight"}},
    {"qwen3next", {"post_attention_norm.weight", "post_attention_layernorm.weight"}},
    {"phi3", {"attn_qkv.weight", "self_attn.qkv_proj.weight"}},
    {"phi3", {"ffn_up.weight", "mlp.gate_up_proj.weight"}},
    {"qwen3next", {"attn_qkv.weight", "linear_attn.in_proj_qkv.weight"}},
    {"qwen3next", {"attn_gate.weight", "linear_attn.in_proj_z.weight"}},
    {"qwen3next", {"ssm_in.weight", "linear_attn.in_proj_qkvz.weight"}},
    {"qwen3next", {"ssm_ba.weight", "linear_attn.in_proj_ba.weight"}},
    {"qwen3next", {"ssm_conv1d.weight", "linear_attn.conv1d.weight"}},
    {"qwen3next", {"ssm_a", "linear_attn.minus_A"}},
    {"qwen3next", {"ssm_dt.bias", "linear_attn.dt_bias"}},
    {"qwen3next", {"ssm_norm.weight", "linear_attn.norm.weight"}},
    {"qwen3next", {"ssm_out.weight", "linear_attn.out_proj.weight"}},
};

const NameRow* FindRow(std::string_view architecture, std::string_view rest) {
  for (const auto& row : kOwnNames) {
    if (row.architecture == architecture && row.name.theirs == rest) return &row.name;
  }
  for (const NameRow& row : kLayerNames) {
    if (row.theirs == rest) return &row;
  }
  return nullptr;
}

// With prefix "blk.", "blk.7.attn_q.weight" is of layer 7 and "attn_q.weight" there.
std::optional<std::pair<int, std::string_view>> SplitLayer(std::string_view name,
                                                           std::string_view prefix) {
  const size_t dot = name.find('.', prefix.size());
  if (!name.starts_with(prefix) || dot == std::string_view::npos) return std::nullopt;
  int layer = 0;
  const char* end = name.data() + dot;
  if (std::from_chars(name.data() + prefix.size(), end, layer).ptr != end || layer < 0) {
    return std::nullopt;
  }
  return std::pair{layer, name.substr(dot + 1)};
}

}  // namespace

std::optional<DecoderName> FindDecoderName(std::string_view architecture, std::string_view name) {
  for (const NameRow& row : kModelNames) {
    if (row.theirs == name) return DecoderName{std::string(row.ours)};
  }
  const auto layer = SplitLayer(name, kLayer);
  if (!layer.has_value()) return std::nullopt;
  const NameRow* row = FindRow(architecture, layer->second);
  if (row == nullptr) return std::nullopt;
  return DecoderName{fmt::format("{}{}.{}", kDecoderLayer, layer->first, row->ours),
                     row->flattened};
}

std::string FindGgufName(std::string_view architecture, std::string_view decoder_name) {
  for (const NameRow& row : kModelNames) {
    if (row.ours == decoder_name) return std::string(row.theirs);
  }
  const auto layer = SplitLayer(decoder_name, kDecoderLayer);
  if (!layer.has_value()) return std::string(decoder_name);
  const auto named = [&](const NameRow& row) {
    return fmt::format("{}{}.{}", kLayer, layer->first, row.theirs);
  };
  for (const auto& row : kOwnNames) {
    if (row.architecture == architecture && row.name.ours == layer->second) return named(row.name);
  }
  for (const NameRow& row : kLayerNames) {
    if (row.ours == layer->second) return named(row);
  }
  return std::string(decoder_name);
}

bool IsLeftOut(std::string_view name) {
  const auto layer = SplitLayer(name, kLayer);
  return name.starts_with("rope_f") || (layer.has_value() && layer->second.starts_with("nextn."));
}

}  // namespace hostler
