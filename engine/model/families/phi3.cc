// Phi-3 (Abdin et al. 2024): fused projections, a sliding window, longrope.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {

absl::StatusOr<DecoderConfig> ConfigurePhi3(const nlohmann::json& config) {
  FamilyConfig family(config);
  family.ForAttention([](AttentionConfig& attention) { attention.fused_qkv = true; });
  family.decoder.dense.fused_gate_up = true;
  const int window = family.reader.Int("sliding_window", 1, 1 << 30, 0);
  family.SlideLayers(window, [](int) { return true; });
  return family.Finish();
}

}  // namespace hostler
