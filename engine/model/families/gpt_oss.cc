// gpt-oss (OpenAI 2025): sinks, alternating windows, biases throughout, a
// clamped SwiGLU, experts as published in MXFP4.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {

absl::StatusOr<DecoderConfig> ConfigureGptOss(const nlohmann::json& config) {
  FamilyConfig family(config, {.norm_eps = 1e-5, .rope_theta = 150000, .head_dim = 64});
  DecoderConfig& d = family.decoder;
  const bool bias = family.reader.Bool("attention_bias", true);
  family.ForAttention([bias](AttentionConfig& attention) {
    attention.sinks = true;
    attention.qkv_bias = attention.o_bias = bias;
  });
  if (family.reader.Double("swiglu_alpha", 1.702) != 1.702) {
    family.reader.Fail("swiglu_alpha", "is not 1.702, which is not supported");
  }
  if (family.rope_scaling() == nullptr) {
    family.reader.Fail("rope_scaling", "is missing; this family always has one");
  }
  const int window = family.reader.Int("sliding_window", 1, 1 << 30, 128);
  family.ReadSlidingLayers(window, [](int layer) { return layer % 2 == 0; });
  family.ReadMoe("num_local_experts", "num_experts_per_tok", "intermediate_size");
  d.moe.gate_name = "router";
  d.moe.gate_bias = true;
  d.moe.gate.score = GateSpec::Score::kLogits;
  d.expert_names = {ExpertForm::kInterleaved, "experts.gate_up_proj", "", "experts.down_proj"};
  d.expert_activation = {Activation::kSwigluOai,
                         static_cast<float>(family.reader.Double("swiglu_limit", 7.0))};
  return family.Finish();
}

}  // namespace hostler
