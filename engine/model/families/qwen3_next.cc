// Qwen3-Next (Qwen 2025): three gated delta nets to one gated attention, norms
// with gains of 1 + w, many small experts and a shared one.

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"

namespace hostler {
namespace {

DeltaNetConfig ReadDeltaNet(FamilyConfig* family) {
  ConfigReader& reader = family->reader;
  DeltaNetConfig net;
  net.dim = family->decoder.dim;
  net.key_heads = reader.Int("linear_num_key_heads", 1, kMostHeads);
  net.value_heads = reader.Int("linear_num_value_heads", 1, kMostHeads);
  net.key_dim = reader.Int("linear_key_head_dim", 1, kMostHeads);
  net.value_dim = reader.Int("linear_value_head_dim", 1, kMostHeads);
  net.kernel = reader.Int("linear_conv_kernel_dim", 1, 64);
  net.norm_eps = family->decoder.norm_eps;
  if (net.value_heads % net.key_heads != 0) {
    reader.Fail("linear_num_key_heads", "must divide linear_num_value_heads");
  }
  return net;
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureQwen3Next(const nlohmann::json& config) {
  FamilyConfig family(config, {.head_dim = 256, .partial_rotary = 0.25});
  ConfigReader& reader = family.reader;
  DecoderConfig& d = family.decoder;
  d.gain_offset = static_cast<float>(reader.Double("gain_offset", 1));  // 0 from GGUF
  family.ForAttention([&d](AttentionConfig& attention) {
    attention.qk_norm = QkNorm::kPerHead;
    attention.gain_offset = d.gain_offset;
    attention.output_gate = true;
  });
  family.ReadMoe("num_experts", "num_experts_per_tok", "moe_intermediate_size");
  family.ReadSparseSteps();
  d.moe.gate.normalize = reader.Bool("norm_topk_prob", true);
  family.AddSharedExpert(reader.Int("shared_expert_intermediate_size", 1, kMostFfn),
                         "shared_expert.");
  d.moe.shared_gate = true;

  const int interval = reader.Int("full_attention_interval", 1, 1 << 20, 4);
  const std::vector<std::string> types = reader.Strings("layer_types");
  if (!types.empty() && static_cast<int>(types.size()) != family.num_layers()) {
    reader.Fail("layer_types", "must name every layer");
    return reader.status();
  }
  const DeltaNetConfig net = ReadDeltaNet(&family);
  for (int i = 0; i < family.num_layers(); ++i) {
    const bool linear = types.empty() ? (i + 1) % interval != 0 : types[i] == "linear_attention";
    if (!linear) continue;
    d.layers[i].attention.reset();
    d.layers[i].delta_net = net;
  }
  return family.Finish();
}

}  // namespace hostler
