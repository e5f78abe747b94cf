// DeepSeek-V2 and V3 (2024): multi-head latent attention and group-limited
// gating.

#include <cmath>
#include <string>

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"
#include "engine/model/families/deepseek_gate.h"
#include "engine/model/rope.h"

namespace hostler {
namespace {

constexpr FamilyDefaults kDefaults = {.rope_dims_key = "qk_rope_head_dim"};

// Replaces every layer's attention by MLA.
void ReadMla(FamilyConfig* family) {
  ConfigReader& reader = family->reader;
  DecoderConfig& d = family->decoder;
  MlaConfig mla;
  mla.dim = d.dim;
  mla.heads = family->attention().heads;
  mla.q_rank = reader.Int("q_lora_rank", 1, kMostWidth, 0);
  mla.kv_rank = reader.Int("kv_lora_rank", 1, kMostWidth);
  mla.nope_dim = reader.Int("qk_nope_head_dim", 1, kMostHeads);
  mla.rope_dim = reader.Int("qk_rope_head_dim", 2, kMostHeads);
  mla.v_dim = reader.Int("v_head_dim", 1, kMostHeads);
  mla.bias = reader.Bool("attention_bias", false);
  mla.norm_eps = 1e-6f;  // the latents' norms have the default, whatever rms_norm_eps says
  if (mla.rope_dim % 2 != 0) reader.Fail("qk_rope_head_dim", "must be even");

  // The softmax's scale contains YaRN's, squared, when it applies to all
  // dimensions.
  double scale = 1.0 / std::sqrt(double(mla.nope_dim + mla.rope_dim));
  if (const nlohmann::json* scaling = family->rope_scaling()) {
    ConfigReader inner(*scaling, "rope_scaling");
    const double all = inner.Double("mscale_all_dim", 0);
    if (all != 0) scale *= std::pow(YarnScale(inner.Double("factor", 1), all), 2);
  }
  mla.scale = static_cast<float>(scale);

  d.ropes[0].interleaved = true;
  d.ropes[0].first = mla.kv_rank;  // a head is its latent, then the turned dimensions
  for (LayerConfig& layer : d.layers) {
    layer.attention.reset();
    layer.mla = mla;
  }
}

void ExpectScoring(const char* name, FamilyConfig* family) {
  const std::string scoring = family->reader.String("scoring_func", name);
  if (scoring != name) {
    family->reader.Fail("scoring_func", "is not supported: \"" + scoring + "\"");
  }
}

}  // namespace

void ReadDeepseekMoe(FamilyConfig* family) {
  ConfigReader& reader = family->reader;
  const int dense_layers = reader.Int("first_k_dense_replace", 0, 1 << 20, 0);
  const int frequency = reader.Int("moe_layer_freq", 1, 1 << 20, 1);
  family->ReadMoe("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size");
  for (int i = 0; i < family->num_layers(); ++i) {
    family->decoder.layers[i].moe = i >= dense_layers && i % frequency == 0;
  }
  const int shared = reader.Int("n_shared_experts", 0, 1024, 0);
  family->AddSharedExpert(shared * family->decoder.expert_ffn, "shared_experts.");

  GateSpec& gate = family->decoder.moe.gate;
  gate.normalize = reader.Bool("norm_topk_prob", false);
  gate.scale = static_cast<float>(reader.Double("routed_scaling_factor", 1));
  gate.groups = reader.Int("n_group", 1, family->decoder.moe.experts, 1);
  gate.top_groups = reader.Int("topk_group", 1, gate.groups, gate.groups);
  if (family->decoder.moe.experts % gate.groups != 0) {
    reader.Fail("n_group", "must divide n_routed_experts");
  }
}

void ReadDeepseekV3Gate(FamilyConfig* family) {
  GateSpec& gate = family->decoder.moe.gate;
  gate.score = GateSpec::Score::kSigmoid;
  gate.group_score = GateSpec::GroupScore::kBestTwo;
  gate.normalize = family->reader.Bool("norm_topk_prob", true);
  gate.sum_epsilon = 1e-20f;
  family->decoder.moe.correction_bias = "gate.e_score_correction_bias";
}

absl::StatusOr<DecoderConfig> ConfigureDeepseekV2(const nlohmann::json& config) {
  FamilyConfig family(config, kDefaults);
  ReadMla(&family);
  ReadDeepseekMoe(&family);
  GateSpec& gate = family.decoder.moe.gate;
  gate.normalize = false;  // whatever norm_topk_prob says
  const std::string method = family.reader.String("topk_method", "greedy");
  if (method == "greedy") {
    gate.groups = gate.top_groups = 1;
  } else if (method != "group_limited_greedy") {
    family.reader.Fail("topk_method", "is not supported: \"" + method + "\"");
  }
  ExpectScoring("softmax", &family);
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureDeepseekV3(const nlohmann::json& config) {
  FamilyConfig family(config, kDefaults);
  ReadMla(&family);
  family.decoder.ropes[0].interleaved = family.reader.Bool("rope_interleave", true);
  ReadDeepseekMoe(&family);
  ReadDeepseekV3Gate(&family);
  ExpectScoring("sigmoid", &family);
  return family.Finish();
}

}  // namespace hostler
