// Qwen3 and Qwen3-MoE (Qwen3 Technical Report, 2025): RMSNorm on each head's q
// and k.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {
namespace {

void ReadQwen3Attention(FamilyConfig* family) {
  family->ForAttention([](AttentionConfig& a) { a.qk_norm = QkNorm::kPerHead; });
  family->ReadQwenWindow();
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureQwen3(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadQwen3Attention(&family);
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureQwen3Moe(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadQwen3Attention(&family);
  family.ReadMoe("num_experts", "num_experts_per_tok", "moe_intermediate_size");
  family.ReadSparseSteps();
  family.decoder.moe.gate.normalize = family.reader.Bool("norm_topk_prob", false);
  return family.Finish();
}

}  // namespace hostler
