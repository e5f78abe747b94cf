// Multi-head latent attention (DeepSeek-V2, section 2.1), with the compressed
// KV kept compressed: the cache holds each token's latent and its shared
// rotary key, and the up-projections are absorbed into q and the output.
#pragma once

#include <memory>
#include <string>

#include "engine/model/layer.h"
#include "engine/model/tensor_binder.h"

namespace hostler {

struct MlaConfig {
  int dim = 0, heads = 0;
  int q_rank = 0;  // 0: q is not compressed
  int kv_rank = 0;
  int nope_dim = 0, rope_dim = 0, v_dim = 0;  // of a head
  bool bias = false;                          // of the down-projections and the output
  float norm_eps = 1e-6f;
  float scale = 0;
  const RopeSpec* rope = nullptr;  // turns rope_dim dimensions; owned by the decoder
};

// `prefix` is the layer's, "model.layers.3.self_attn.".
std::unique_ptr<Mixer> NewMla(const MlaConfig& config, int kv_layer, const std::string& prefix,
                              TensorBinder& binder);

}  // namespace hostler
