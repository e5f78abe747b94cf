// ERNIE 4.5 MoE (Baidu 2025): neighbouring dimensions turn together; experts
// are chosen with a correction bias.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {

absl::StatusOr<DecoderConfig> ConfigureErnie45Moe(const nlohmann::json& config) {
  FamilyConfig family(config, {.norm_eps = 1e-5, .rope_theta = 500000});
  ConfigReader& reader = family.reader;
  DecoderConfig& d = family.decoder;
  const bool bias = reader.Bool("use_bias", false);
  family.ForAttention(
      [bias](AttentionConfig& attention) { attention.qkv_bias = attention.o_bias = bias; });
  d.dense.bias = d.head_bias = bias;
  d.tied_embeddings = reader.Bool("tie_word_embeddings", true);
  d.ropes[0].interleaved = true;

  family.ReadMoe("moe_num_experts", "moe_k", "moe_intermediate_size");
  const int first = reader.Int("moe_layer_start_index", 0, 1 << 20, 1);
  const int last = reader.Int("moe_layer_end_index", -1, 1 << 20, -1);
  const int interval = reader.Int("moe_layer_interval", 1, 1 << 20, 1);
  for (int i = 0; i < family.num_layers(); ++i) {
    d.layers[i].moe = (i + 1) % interval == 0 && i >= first && (last < 0 || i <= last);
  }
  family.AddSharedExpert(reader.Int("moe_num_shared_experts", 0, 1024, 2) * d.expert_ffn,
                         "shared_experts.");
  d.moe.gate.normalize = true;
  d.moe.gate.least_sum = static_cast<float>(reader.Double("moe_norm_min", 1e-12));
  d.moe.correction_bias = "moe_statics.e_score_correction_bias";
  return family.Finish();
}

}  // namespace hostler
