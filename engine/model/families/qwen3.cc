// Qwen3 and Qwen3-MoE (Qwen3 Technical Report, 2025): RMSNorm on each head's q
// and k.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {
namespace {

void ReadQwen3Attention(FamilyConfig* family) {
  family->ForAttention([](AttentionConfig& a) { a.qk_norm = QkNorm::kPerHead; });
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureQwen3(const nlohmann::json& config) {
  FamilyConfig family(config, {.head_dim = 128});
  ReadQwen3Attention(&family);
  family.ReadQwenWindow();
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureQwen3Moe(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadQwen3Attention(&family);
  // Every layer's, unlike the dense Qwen3.
  if (family.reader.Bool("use_sliding_window", false)) family.ReadWindow(4096);
  const bool newer = !family.reader.Has("num_experts");  // transformers 5's spelling
  family.ReadMoe(newer ? "num_local_experts" : "num_experts", "num_experts_per_tok",
                 "moe_intermediate_size");
  family.ReadSparseSteps();
  family.decoder.moe.gate.normalize = family.reader.Bool("norm_topk_prob", false);
  return family.Finish();
}

}  // namespace hostler
