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

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureMixtral(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadMixtralMoe(&family);
  const int window = family.reader.Int("sliding_window", 1, 1 << 30, 0);
  family.SlideLayers(window, [](int) { return true; });
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureMinimaxM2(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadMixtralMoe(&family);
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
