// Gemma 2 and 3 (Gemma Team 2024, 2025): norms before and after both halves of
// a layer with gains of 1 + w, scaled embeddings, GELU, alternating windows;
// Gemma 2 caps scores and logits, Gemma 3 normalises q and k and turns its
// local layers by their own frequencies.

#include <cmath>

#include "engine/model/architectures.h"
#include "engine/model/families/common.h"
#include "engine/model/rope.h"

namespace hostler {
namespace {

void ReadGemma(FamilyConfig* family) {
  DecoderConfig& d = family->decoder;
  // GGUF files have the 1 in the gains.
  const float gain_offset = static_cast<float>(family->reader.Double("gain_offset", 1));
  d.gain_offset = gain_offset;
  d.embedding_scale = std::sqrt(static_cast<float>(d.dim));
  d.tied_embeddings = family->reader.Bool("tie_word_embeddings", true);
  d.ffn_norm = "pre_feedforward_layernorm";
  d.mixer_output_norm = "post_attention_layernorm";
  d.ffn_output_norm = "post_feedforward_layernorm";
  d.dense.activation.kind = Activation::kGeluTanh;
  const double scalar =
      family->reader.Double("query_pre_attn_scalar", family->attention().head_dim);
  if (!(scalar > 0)) family->reader.Fail("query_pre_attn_scalar", "must be positive");
  if (family->reader.Bool("use_bidirectional_attention", false)) {
    family->reader.Fail("use_bidirectional_attention", "is not supported");
  }
  family->ForAttention([&](AttentionConfig& attention) {
    attention.gain_offset = gain_offset;
    attention.scale = static_cast<float>(1.0 / std::sqrt(scalar));
  });
}

// rope_local_base_freq's, or rope_parameters' for these layers.
RopeSpec ReadLocalRope(FamilyConfig* family) {
  const nlohmann::json* parameters = family->reader.Get("rope_parameters");
  const nlohmann::json* local =
      parameters == nullptr ? nullptr
                            : ConfigReader(*parameters, "rope_parameters").Get("sliding_attention");
  const double theta = family->reader.Double("rope_local_base_freq", 10000);
  const double own = local == nullptr
                         ? theta
                         : ConfigReader(*local, "rope_parameters").Double("rope_theta", theta);
  return MakeRope(family->attention().head_dim, own, local, family->decoder.max_positions,
                  family->reader);
}

// A cap of 0 caps nothing; null asks for none.
float ReadCap(const char* key, double missing, ConfigReader& reader) {
  return static_cast<float>(reader.Double(key, reader.IsNull(key) ? 0 : missing));
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureGemma2(const nlohmann::json& config) {
  FamilyConfig family(config, {.head_dim = 256});
  ReadGemma(&family);
  family.decoder.logit_soft_cap = ReadCap("final_logit_softcapping", 30, family.reader);
  const float cap = ReadCap("attn_logit_softcapping", 50, family.reader);
  family.ForAttention([cap](AttentionConfig& a) { a.soft_cap = cap; });
  const int window = family.reader.Int("sliding_window", 1, 1 << 30, 4096);
  family.ReadSlidingLayers(window, [](int layer) { return layer % 2 == 0; });
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureGemma3(const nlohmann::json& config) {
  FamilyConfig family(config, {.rope_theta = 1000000, .head_dim = 256, .rope_by_layer_type = true});
  ReadGemma(&family);
  // Scores are not capped, whatever attn_logit_softcapping says: q and k have norms instead.
  family.decoder.logit_soft_cap = ReadCap("final_logit_softcapping", 0, family.reader);
  family.ForAttention([](AttentionConfig& a) { a.qk_norm = QkNorm::kPerHead; });
  const int window = family.reader.Int("sliding_window", 1, 1 << 30, 4096);
  const int pattern = family.reader.Int("sliding_window_pattern", 1, 1 << 20, 6);
  family.ReadSlidingLayers(window, [pattern](int layer) { return (layer + 1) % pattern != 0; });
  // Local layers see little of the context and keep unstretched positions.
  family.decoder.ropes.push_back(ReadLocalRope(&family));
  for (LayerConfig& layer : family.decoder.layers) {
    if (layer.attention->window > 0) layer.rope = 1;
  }
  return family.Finish();
}

}  // namespace hostler
