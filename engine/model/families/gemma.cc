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
  const double cap = family->reader.Double("attn_logit_softcapping", 0);
  if (!(scalar > 0)) family->reader.Fail("query_pre_attn_scalar", "must be positive");
  d.logit_soft_cap = static_cast<float>(family->reader.Double("final_logit_softcapping", 0));
  family->ForAttention([&](AttentionConfig& attention) {
    attention.gain_offset = gain_offset;
    attention.scale = static_cast<float>(1.0 / std::sqrt(scalar));
    attention.soft_cap = static_cast<float>(cap);
  });
}

}  // namespace

absl::StatusOr<DecoderConfig> ConfigureGemma2(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadGemma(&family);
  const int window = family.reader.Int("sliding_window", 1, 1 << 30, 4096);
  family.ReadSlidingLayers(window, [](int layer) { return layer % 2 == 0; });
  return family.Finish();
}

absl::StatusOr<DecoderConfig> ConfigureGemma3(const nlohmann::json& config) {
  FamilyConfig family(config);
  ReadGemma(&family);
  family.ForAttention([](AttentionConfig& a) { a.qk_norm = QkNorm::kPerHead; });
  const int window = family.reader.Int("sliding_window", 1, 1 << 30, 4096);
  const int pattern = family.reader.Int("sliding_window_pattern", 1, 1 << 20, 6);
  family.ReadSlidingLayers(window, [pattern](int layer) { return (layer + 1) % pattern != 0; });
  // Local layers see little of the context and keep unstretched positions.
  family.decoder.ropes.push_back(MakeRope(family.attention().head_dim,
                                          family.reader.Double("rope_local_base_freq", 10000.0),
                                          nullptr, family.decoder.max_positions, family.reader));
  for (LayerConfig& layer : family.decoder.layers) {
    if (layer.attention->window > 0) layer.rope = 1;
  }
  return family.Finish();
}

}  // namespace hostler
