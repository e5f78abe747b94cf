// What nearly every family's configuration says in the same words.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/model/config_reader.h"
#include "engine/model/decoder.h"

namespace hostler {

// A configuration on its way to a DecoderConfig: the reader with what went
// wrong so far, and the decoder as Hugging Face's usual keys describe it, one
// attention layer like the other with a dense SwiGLU network. Families change
// what they do otherwise, then Finish().
class FamilyConfig {
 public:
  explicit FamilyConfig(const nlohmann::json& json);

  absl::StatusOr<DecoderConfig> Finish();

  ConfigReader reader;
  DecoderConfig decoder;

  int num_layers() const { return static_cast<int>(decoder.layers.size()); }
  // The first layer's; changes must be made to all, with ForAttention.
  const AttentionConfig& attention() const { return *decoder.layers.front().attention; }
  template <typename F>
  void ForAttention(F change) {
    for (LayerConfig& layer : decoder.layers) {
      if (layer.attention.has_value()) change(*layer.attention);
    }
  }

  // The MoE layers' experts, from keys of these names; every layer becomes an
  // MoE layer. Top-k of the softmax, not normalised.
  void ReadMoe(const char* experts_key, const char* top_k_key, const char* ffn_key);
  // As for ReadMoe, a shared expert of this width.
  void AddSharedExpert(int ffn, const std::string& name);
  // Qwen's and others': every decoder_sparse_step-th layer, but mlp_only_layers.
  void ReadSparseSteps();
  // A sliding window of this width in the layers for which `slides` is true.
  template <typename F>
  void SlideLayers(int window, F slides) {
    for (int i = 0; i < num_layers(); ++i) {
      if (slides(i)) decoder.layers[i].attention->window = window;
    }
  }
  // True where layer_types (if there) says "sliding_attention"; else by rule.
  template <typename F>
  void ReadSlidingLayers(int window, F otherwise) {
    const std::vector<std::string> types = reader.Strings("layer_types");
    if (!types.empty() && static_cast<int>(types.size()) != num_layers()) {
      reader.Fail("layer_types", "must name every layer");
      return;
    }
    SlideLayers(window, [&](int i) {
      return types.empty() ? otherwise(i) : types[i] == "sliding_attention";
    });
  }

  // Qwen's: with use_sliding_window, the layers from max_window_layers on.
  void ReadQwenWindow();

  double rope_theta() const { return rope_theta_; }
  const nlohmann::json* rope_scaling() const { return rope_scaling_; }

 private:
  void ReadRope();

  double rope_theta_ = 10000;
  const nlohmann::json* rope_scaling_ = nullptr;
};

// The limits of sizes that any family has.
inline constexpr int kMostWidth = 1 << 20;
inline constexpr int kMostFfn = 1 << 24;
inline constexpr int kMostHeads = 4096;

}  // namespace hostler
