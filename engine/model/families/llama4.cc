// Llama 4's text model (Meta 2025): chunked attention with positions, full
// attention without, a temperature for long contexts, one expert of many whose
// input the gate weighs.

#include <algorithm>
#include <string>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {
namespace {

void ReadLlama4Attention(FamilyConfig* family) {
  ConfigReader& reader = family->reader;
  DecoderConfig& d = family->decoder;
  d.ropes[0].interleaved = true;
  const int whole = reader.IsNull("attention_chunk_size") ? 0 : 8192;
  const int chunk = reader.Int("attention_chunk_size", 1, 1 << 30, whole);
  const std::vector<std::string> types = reader.Strings("layer_types");
  if (!types.empty() && static_cast<int>(types.size()) != family->num_layers()) {
    reader.Fail("layer_types", "must name every layer");
    return;
  }
  const bool qk_norm = reader.Bool("use_qk_norm", true);
  const bool tuned = reader.Bool("attn_temperature_tuning", true);
  const double scale = reader.Double("attn_scale", 0.1);
  const int floor = reader.Int("floor_scale", 1, 1 << 30, 8192);
  const int interval = reader.Int("no_rope_layer_interval", 1, 1 << 20, 4);
  std::vector<int64_t> turned = reader.Ints("no_rope_layers", {});
  for (int i = static_cast<int>(turned.size()); i < family->num_layers(); ++i) {
    turned.push_back((i + 1) % interval != 0);
  }
  for (int i = 0; i < family->num_layers(); ++i) {
    AttentionConfig& attention = *d.layers[i].attention;
    const bool chunked = types.empty() ? turned[i] != 0 : types[i] == "chunked_attention";
    if (chunked) attention.chunk = chunk;
    if (turned[i] != 0) {
      if (qk_norm) attention.qk_norm = QkNorm::kUnitAfterRope;
    } else {
      d.layers[i].rope = -1;
      if (tuned) attention.position_scale = static_cast<float>(scale);
      attention.position_floor = floor;
    }
  }
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureLlama4(const nlohmann::json& config) {
  FamilyConfig family(config, {.norm_eps = 1e-5, .rope_theta = 500000, .head_dim = 128});
  ConfigReader& reader = family.reader;
  DecoderConfig& d = family.decoder;
  ReadLlama4Attention(&family);
  family.ReadMoe("num_local_experts", "num_experts_per_tok", "intermediate_size");
  const int step = reader.Int("interleave_moe_layer_step", 1, 1 << 20, 1);
  const std::vector<int64_t> listed = reader.Ints("moe_layers", {});
  for (int i = 0; i < family.num_layers(); ++i) {
    d.layers[i].moe = listed.empty() ? (i + 1) % step == 0
                                     : std::find(listed.begin(), listed.end(), i) != listed.end();
  }
  d.dense_name = d.moe_name = "feed_forward.";
  family.AddSharedExpert(d.expert_ffn, "shared_expert.");
  d.dense.ffn = reader.Int("intermediate_size_mlp", 1, kMostFfn, d.dense.ffn);
  d.moe.gate_name = "router";
  d.moe.gate.score = GateSpec::Score::kSigmoid;
  d.moe.weigh_input = true;
  d.expert_names = {ExpertForm::kTransposedGateUp, "experts.gate_up_proj", "", "experts.down_proj"};
  return family.Finish();
}

}  // namespace hostler
