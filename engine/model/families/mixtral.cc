// Mixtral (Jiang et al. 2024), and MiniMax-M2, which gates by sigmoids with a
// correction bias and normalises all of q and k at once.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {
namespace {

void ReadMixtralMoe(FamilyConfig* family) {
  family->ReadMoe("num_local_experts", "num_experts_per_tok", "intermediate_size");
  family->decoder.moe_name = "block_sparse_moe.";
  family->decoder.expert_names = {ExpertForm::kSeparate, "w1.weight", "w3.weight", "w2.weight"};
  family->decoder.moe.gate.normalize = true;
}

// What M2's configuration has keys for, and no published M2 does.
void RefuseLinearAttention(FamilyConfig* family) {
  ConfigReader& reader = family->reader;
  for (const int64_t type : reader.Ints("attn_type_list", {})) {
    if (type != 1) reader.Fail("attn_type_list", "has linear attention, which is not supported");
  }
  if (reader.Int("shared_intermediate_size", 0, kMostFfn, 0) != 0) {
    reader.Fail("shared_intermediate_size", "is not 0, which is not supported");
  }
  if (reader.String("qk_norm_type", "per_layer") != "per_layer") {
    reader.Fail("qk_norm_type", "is not \"per_layer\", which is not supported");
  }
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureMixtral(const nlohmann::json& config) {
  FamilyConfig family(config, {.norm_eps = 1e-5, .rope_theta = 1000000});
  ReadMixtralMoe(&family);
  family.ReadWindow(0);
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureMinimaxM2(const nlohmann::json& config) {
  FamilyConfig family(config, {.rope_theta = 5000000, .head_dim = 128, .partial_rotary = 1});
  ReadMixtralMoe(&family);
  RefuseLinearAttention(&family);
  if (family.reader.Bool("use_qk_norm", true)) {
    family.ForAttention([](AttentionConfig& a) { a.qk_norm = QkNorm::kWhole; });
  }
  GateSpec& gate = family.decoder.moe.gate;
  gate.score = family.reader.String("scoring_func", "sigmoid") == "sigmoid"
                   ? GateSpec::Score::kSigmoid
                   : GateSpec::Score::kSoftmax;
  if (family.reader.Bool("use_routing_bias", true)) {
    family.decoder.moe.correction_bias = "e_score_correction_bias";
  }
  return family.Finish();
}

}  // namespace hostler
