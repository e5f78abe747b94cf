// OLMoE (Muennighoff et al. 2024): RMSNorm over all of q and of k at once.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {

absl::StatusOr<DecoderConfig> ConfigureOlmoe(const nlohmann::json& config) {
  FamilyConfig family(config, {.norm_eps = 1e-5});
  const float clip = static_cast<float>(family.reader.Double("clip_qkv", 0));
  if (family.reader.Has("clip_qkv") && !(clip > 0)) {
    family.reader.Fail("clip_qkv", "must be positive");
  }
  family.ForAttention([clip](AttentionConfig& attention) {
    attention.qk_norm = QkNorm::kWhole;
    attention.clip = clip;
  });
  family.ReadMoe("num_experts", "num_experts_per_tok", "intermediate_size");
  family.decoder.moe.gate.normalize = family.reader.Bool("norm_topk_prob", false);
  return family.Finish();
}

}  // namespace hostler
