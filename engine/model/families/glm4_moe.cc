// GLM-4.5 (Zeng et al. 2025): partial rotary positions, DeepSeek-V3's gate.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"
#include "engine/model/families/deepseek_gate.h"

namespace hostler {

absl::StatusOr<DecoderConfig> ConfigureGlm4Moe(const nlohmann::json& config) {
  FamilyConfig family(config, {.norm_eps = 1e-5, .partial_rotary = 0.5});
  const bool qk_norm = family.reader.Bool("use_qk_norm", false);
  family.ForAttention([&](AttentionConfig& attention) {
    attention.o_bias = false;
    if (qk_norm) attention.qk_norm = QkNorm::kPerHead;
  });
  ReadDeepseekMoe(&family);
  ReadDeepseekV3Gate(&family);
  return family.Finish();
}

}  // namespace hostler
