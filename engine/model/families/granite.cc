// Granite and Granite-MoE (IBM Granite 3.0, 2024): multipliers on embedding,
// attention, residual and logits; experts of a layer in two tensors.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {

namespace {

void ReadMultipliers(FamilyConfig* family) {
  DecoderConfig& d = family->decoder;
  d.embedding_scale = static_cast<float>(family->reader.Double("embedding_multiplier", 1));
  d.residual_scale = static_cast<float>(family->reader.Double("residual_multiplier", 1));
  const double divisor = family->reader.Double("logits_scaling", 1);
  if (divisor == 0) family->reader.Fail("logits_scaling", "must not be 0");
  d.logit_scale = static_cast<float>(1 / divisor);
  const double attention_scale = family->reader.Double("attention_multiplier", 1);
  family->ForAttention(
      [&](AttentionConfig& attention) { attention.scale = static_cast<float>(attention_scale); });
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureGranite(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadMultipliers(&family);
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureGraniteMoe(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadMultipliers(&family);
  family.ReadMoe("num_local_experts", "num_experts_per_tok", "intermediate_size");
  DecoderConfig& d = family.decoder;
  d.moe_name = "block_sparse_moe.";
  d.moe.gate_name = "router.layer";
  d.moe.gate.score = GateSpec::Score::kLogits;
  d.expert_names = {ExpertForm::kStackedGateUp, "input_linear.weight", "", "output_linear.weight"};
  return family.Finish();
}

}  // namespace hostler
