// Gated delta net (Yang et al. 2024), Qwen3-Next's linear attention: a state of
// fixed size instead of KV.
#pragma once

#include <memory>
#include <string>

#include "engine/model/layer.h"
#include "engine/model/tensor_binder.h"

namespace hostler {

struct DeltaNetConfig {
  int dim = 0;
  int key_heads = 0, value_heads = 0;
  int key_dim = 0, value_dim = 0;  // of a head
  int kernel = 0;                  // of the convolution
  float norm_eps = 1e-6f;

  size_t state_bytes() const;
};

// Tensors are as published, with q, k, v and z of each key head together in
// in_proj_qkvz and A as its logarithm, or as in GGUF, with in_proj_z apart from
// all heads' q, k and v in in_proj_qkv, and minus_A.
// `prefix`: "model.layers.3.linear_attn."; `state_offset`: this layer's place
// in a sequence's state slot.
std::unique_ptr<Mixer> NewDeltaNet(const DeltaNetConfig& config, size_t state_offset,
                                   const std::string& prefix, TensorBinder& binder);

}  // namespace hostler
