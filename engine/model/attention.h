// Grouped-query attention (Ainslie et al. 2023) with the variations that
// published models have.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/compute/backend.h"
#include "engine/model/layer.h"
#include "engine/model/tensor_binder.h"

namespace hostler {

enum class QkNorm {
  kNone,
  kPerHead,       // RMSNorm with a gain of head_dim, before rope
  kWhole,         // RMSNorm over all heads at once, before rope
  kUnitAfterRope  // RMSNorm without a gain on each head, after rope (Llama 4)
};

// One layer's attention.
struct AttentionConfig {
  int dim = 0, heads = 0, kv_heads = 0, head_dim = 0;
  bool qkv_bias = false, o_bias = false;
  bool fused_qkv = false;    // one qkv_proj matrix, rows q then k then v
  bool output_gate = false;  // q_proj also gives a gate for the output (Qwen3-Next)
  bool sinks = false;
  QkNorm qk_norm = QkNorm::kNone;
  float norm_eps = 1e-6f;
  float clip = 0;                  // > 0: q (and k, after their norms) and v are within ±clip
  float gain_offset = 0;           // added to norm gains
  const RopeSpec* rope = nullptr;  // null: no positions; owned by the decoder
  float scale = 0;
  int window = 0, chunk = 0;
  float soft_cap = 0;
  // Llama 4's temperature: q is multiplied by
  // 1 + position_scale * log1p(floor((position + 1) / position_floor)).
  float position_scale = 0;
  int position_floor = 1;
};

// `prefix` is the layer's, "model.layers.3.self_attn."; `kv_layer` counts
// layers that have KV.
std::unique_ptr<Mixer> NewAttention(const AttentionConfig& config, int kv_layer,
                                    const std::string& prefix, TensorBinder& binder);

}  // namespace hostler
