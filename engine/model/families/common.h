// What nearly every family's configuration says in the same words.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/model/config_reader.h"
#include "engine/model/decoder.h"

namespace hostler {

// What a family takes for granted where its config.json does not say.
struct FamilyDefaults {
  double norm_eps = 1e-6;
  double rope_theta = 10000;
  int head_dim = 0;  // 0: hidden_size / num_attention_heads
  // The part of a head that turns; 0: all of it, whatever partial_rotary_factor
  // says, which is refused then.
  double partial_rotary = 0;
  const char* rope_dims_key = nullptr;  // where the turned dimensions are apart from head_dim
  bool rope_by_layer_type = false;      // rope_parameters has a part for each layer type
};

// A configuration on its way to a DecoderConfig: the reader with what went
// wrong so far, and the decoder as Hugging Face's usual keys describe it, one
// attention layer like the other with a dense SwiGLU network. Families change
// what they do otherwise, then Finish().
class FamilyConfig {
 public:
  explicit FamilyConfig(const nlohmann::json& json, const FamilyDefaults& defaults = {});

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
  // MoE layer. Top-k of the softmax, not normalised. Any family may have experts
  // without weights, a gate residual and top_p_threshold besides.
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

  // A sliding window of this width in every layer, if there is one: `missing`
  // when the key is, none when it is null.
  void ReadWindow(int missing);
  // Qwen's: with use_sliding_window, the layers from max_window_layers on.
  void ReadQwenWindow();

  // How positions are stretched: null where they are not.
  const nlohmann::json* rope_scaling() const { return rope_scaling_; }

 private:
  const nlohmann::json* RopeParameters();
  // Frequencies as `parameters` (null: none) says, which may also have
  // "rope_theta" and "partial_rotary_factor".
  RopeSpec ReadRope(const nlohmann::json* parameters, double theta);
  int TurnedDimensions(double partial);
  void ReadWeightlessExperts();
  void CheckGate();

  const FamilyDefaults defaults_;
  const nlohmann::json* rope_scaling_ = nullptr;
};

// The limits of sizes that any family has.
inline constexpr int kMostWidth = 1 << 20;
inline constexpr int kMostFfn = 1 << 24;
inline constexpr int kMostHeads = 4096;

}  // namespace hostler
