// OLMoE (Muennighoff et al. 2024): RMSNorm over all of q and of k at once.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {

absl::StatusOr<DecoderConfig> ConfigureOlmoe(const nlohmann::json& config) {
  FamilyConfig family(config);
  family.ForAttention([](AttentionConfig& a) { a.qk_norm = QkNorm::kWhole; });
  family.ReadMoe("num_experts", "num_experts_per_tok", "intermediate_size");
  family.decoder.moe.gate.normalize = family.reader.Bool("norm_topk_prob", false);
  if (family.reader.Has("clip_qkv")) family.reader.Fail("clip_qkv", "is not supported");
  return family.Finish();
}

}  // namespace hostler
