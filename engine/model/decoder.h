// The decoder: embedding, layers of mixer and feed-forward, norm, head. What
// distinguishes the families is data, which each family's file fills in.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/compute/backend.h"
#include "engine/model/attention.h"
#include "engine/model/delta_net.h"
#include "engine/model/gated_mlp.h"
#include "engine/model/mla.h"
#include "engine/model/model.h"
#include "engine/model/moe.h"
#include "engine/model/stored_experts.h"

namespace hostler {

// One layer. Exactly one mixer; an MoE or a dense network.
struct LayerConfig {
  std::optional<AttentionConfig> attention;
  std::optional<MlaConfig> mla;
  std::optional<DeltaNetConfig> delta_net;
  int rope = 0;  // index into DecoderConfig::ropes; -1: no positions
  bool moe = false;
};

struct DecoderConfig {
  int vocab = 0, dim = 0, max_positions = 0;
  std::vector<LayerConfig> layers;
  std::vector<RopeSpec> ropes;

  float norm_eps = 1e-6f;
  bool layer_norm = false;  // LayerNorm with bias instead of RMSNorm
  float gain_offset = 0;    // added to norm gains (Gemma: 1)
  bool tied_embeddings = false;
  bool head_bias = false;
  float embedding_scale = 1, residual_scale = 1, logit_scale = 1;
  float logit_soft_cap = 0;  // > 0: logits become cap * tanh(logit / cap)

  // Tensor names below "model.layers.N.".
  std::string mixer_name = "self_attn.";
  std::string delta_net_name = "linear_attn.";
  std::string input_norm = "input_layernorm";
  std::string ffn_norm = "post_attention_layernorm";
  // Norms of the mixer's and the network's output (Gemma); "": none.
  std::string mixer_output_norm, ffn_output_norm;
  std::string dense_name = "mlp.", moe_name = "mlp.";

  GatedMlpConfig dense;
  // MoE layers; experts == 0: there are none.
  MoeConfig moe;
  ExpertNames expert_names;
  int expert_ffn = 0;
  ActivationSpec expert_activation;
};

struct ModelOptions {
  bool quantize = false;  // matrices and experts to q8_0
  bool precise = false;   // FP8 becomes f32, which holds every value, instead of bf16
};

// What of a model's files its graph uses.
struct DecoderParts {
  std::map<std::string, TensorUse> tensors;  // by name; all but the experts
  std::vector<StoredExperts> experts;  // [MoE layers]; in q8_0 if asked; interleaved if possible
};

// Checks what NewDecoder would bind, without converting or allocating any of
// it. Errors: as NewDecoder.
absl::StatusOr<DecoderParts> ListDecoderParts(DecoderConfig config, const WeightSource* weights,
                                              const ModelOptions& options);

// A decoder without its weights, and what it would take with them.
struct DecoderSketch {
  // Views the source. Only sizes may be asked of it: nothing can be computed.
  std::unique_ptr<Model> model;
  // Multiply-adds of one row outside the experts and the attention itself, by
  // the type of the weights.
  std::map<DType, uint64_t> dense_macs;
  std::vector<ExpertLayout> experts;  // [MoE layers]
};

// Reads headers only. Errors: as NewDecoder.
absl::StatusOr<DecoderSketch> SketchDecoder(DecoderConfig config, const ModelInfo& info,
                                            const WeightSource* weights,
                                            const ModelOptions& options, Backend* backend);

// Builds the graph and binds the weights. Errors: InvalidArgument and
// Unimplemented, naming the tensor.
absl::StatusOr<std::unique_ptr<Model>> NewDecoder(DecoderConfig config, const ModelInfo& info,
                                                  const WeightSource* weights,
                                                  const ModelOptions& options, Backend* backend);

// Sizes, for ModelInfo.
void DescribeDecoder(const DecoderConfig& config, ModelInfo* info);

}  // namespace hostler
