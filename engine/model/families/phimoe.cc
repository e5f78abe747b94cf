// Phi-3.5-MoE (Abdin et al. 2024): LayerNorm with bias, biases throughout, and
// SparseMixer's gate (Liu et al. 2024).

#include <string>

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {
namespace {

// Stretched positions multiply q and k by one number in short sequences and by
// another in long ones.
void ReadMagnitudes(FamilyConfig* family) {
  const nlohmann::json* scaling = family->rope_scaling();
  if (scaling == nullptr) return;
  ConfigReader inner(*scaling, "rope_scaling");
  RopeSpec& rope = family->decoder.ropes[0];
  if (inner.String("rope_type", inner.String("type", "default")) == "default") return;
  // GGUF files have one number for both.
  const float both = rope.scale;
  rope.scale = static_cast<float>(inner.Double("short_mscale", both));
  rope.long_scale = static_cast<float>(inner.Double("long_mscale", both));
  if (rope.long_inv_freq.empty()) {
    const int original =
        inner.Int("original_max_position_embeddings", 1, 1 << 30, family->decoder.max_positions);
    rope.long_inv_freq = rope.inv_freq;
    rope.short_context =
        family->reader.Int("original_max_position_embeddings", 1, 1 << 30, original);
  }
  if (!inner.status().ok()) {
    family->reader.Fail("rope_scaling", std::string(inner.status().message()));
  }
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigurePhimoe(const nlohmann::json& config) {
  FamilyConfig family(config, {.norm_eps = 1e-5, .rope_theta = 1000000});
  DecoderConfig& d = family.decoder;
  d.layer_norm = true;
  d.head_bias = family.reader.Bool("lm_head_bias", false);
  family.ReadMoe("num_local_experts", "num_experts_per_tok", "intermediate_size");
  d.moe_name = "block_sparse_moe.";
  d.expert_names = {ExpertForm::kSeparate, "w1.weight", "w3.weight", "w2.weight"};
  d.moe.gate.score = GateSpec::Score::kSparseMixer;
  d.moe.gate.jitter = static_cast<float>(family.reader.Double("router_jitter_noise", 0.01));
  if (d.moe.gate.top_k != 2) {
    family.reader.Fail("num_experts_per_tok", "must be 2: SparseMixer is defined for two");
  }
  ReadMagnitudes(&family);
  family.ReadWindow(0);
  return family.Finish();
}

}  // namespace hostler
