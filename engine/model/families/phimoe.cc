// Phi-3.5-MoE (Abdin et al. 2024): LayerNorm with bias, biases throughout, and
// SparseMixer's gate (Liu et al. 2024).

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {

absl::StatusOr<DecoderConfig> ConfigurePhimoe(const nlohmann::json& config) {
  FamilyConfig family(config);
  DecoderConfig& d = family.decoder;
  d.layer_norm = true;
  d.head_bias = family.reader.Bool("lm_head_bias", false);
  family.ReadMoe("num_local_experts", "num_experts_per_tok", "intermediate_size");
  d.moe_name = "block_sparse_moe.";
  d.expert_names = {ExpertForm::kSeparate, "w1.weight", "w3.weight", "w2.weight"};
  d.moe.gate.score = GateSpec::Score::kSparseMixer;
  d.moe.gate.jitter = static_cast<float>(family.reader.Double("router_jitter_noise", 0.01));
  // The published models' scaling says its scale by names of its own.
  if (family.rope_scaling() != nullptr) {
    ConfigReader scaling(*family.rope_scaling(), "rope_scaling");
    const double scale = scaling.Double("short_mscale", d.ropes[0].scale);
    if (scaling.Double("long_mscale", scale) != scale) {
      family.reader.Fail("rope_scaling", "has a long_mscale that is not short_mscale");
    }
    if (!scaling.status().ok()) return scaling.status();
    d.ropes[0].scale = static_cast<float>(scale);
  }
  const int window = family.reader.Int("sliding_window", 1, 1 << 30, 0);
  family.SlideLayers(window, [](int) { return true; });
  return family.Finish();
}

}  // namespace hostler
