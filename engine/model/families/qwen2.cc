// Qwen2 and Qwen2-MoE (Yang et al. 2024): biased q, k and v; the MoE adds a
// shared expert behind a sigmoid.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {
namespace {

void ReadQwen2Attention(FamilyConfig* family) {
  family->ForAttention([](AttentionConfig& attention) {
    attention.qkv_bias = true;
    attention.o_bias = false;
  });
  family->ReadQwenWindow();
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureQwen2(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadQwen2Attention(&family);
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureQwen2Moe(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadQwen2Attention(&family);
  family.ReadMoe("num_experts", "num_experts_per_tok", "moe_intermediate_size");
  family.ReadSparseSteps();
  family.decoder.moe.gate.normalize = family.reader.Bool("norm_topk_prob", false);
  family.AddSharedExpert(family.reader.Int("shared_expert_intermediate_size", 1, kMostFfn),
                         "shared_expert.");
  family.decoder.moe.shared_gate = true;
  return family.Finish();
}

}  // namespace hostler
