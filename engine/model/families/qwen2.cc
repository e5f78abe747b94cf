// Qwen2 and Qwen2-MoE (Yang et al. 2024): biased q, k and v; the MoE adds a
// shared expert behind a sigmoid.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {
namespace {

void ReadQwen2Attention(FamilyConfig* family) {
  const bool bias = family->reader.Bool("qkv_bias", true);
  family->ForAttention([bias](AttentionConfig& attention) {
    attention.qkv_bias = bias;
    attention.o_bias = false;
  });
}

// Every other one of the first max_window_layers, unlike the dense Qwen2.
void ReadQwen2MoeWindow(FamilyConfig* family) {
  if (!family->reader.Bool("use_sliding_window", false)) return;
  const int window = family->reader.Int("sliding_window", 1, 1 << 30, 4096);
  const int end = family->reader.Int("max_window_layers", 0, 1 << 20, 28);
  family->ReadSlidingLayers(window, [end](int layer) { return layer % 2 == 0 && layer < end; });
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureQwen2(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadQwen2Attention(&family);
  family.ReadQwenWindow();
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureQwen2Moe(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadQwen2Attention(&family);
  ReadQwen2MoeWindow(&family);
  family.ReadMoe("num_experts", "num_experts_per_tok", "moe_intermediate_size");
  family.ReadSparseSteps();
  family.decoder.moe.gate.normalize = family.reader.Bool("norm_topk_prob", false);
  family.AddSharedExpert(family.reader.Int("shared_expert_intermediate_size", 1, kMostFfn),
                         "shared_expert.");
  family.decoder.moe.shared_gate = true;
  return family.Finish();
}

}  // namespace hostler
