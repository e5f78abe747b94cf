// Phi-3 (Abdin et al. 2024): fused projections, a sliding window, longrope.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {

absl::StatusOr<DecoderConfig> ConfigurePhi3(const nlohmann::json& config) {
  FamilyConfig family(config, {.norm_eps = 1e-5, .partial_rotary = 1});
  family.ForAttention([](AttentionConfig& attention) { attention.fused_qkv = true; });
  family.decoder.dense.fused_gate_up = true;
  family.ReadWindow(0);
  return family.Finish();
}

}  // namespace hostler
