// The MoE feed-forward layer: gate → experts through the cache → weighted sum,
// and the shared expert that some models add. A row may choose any number of
// experts, and some may have no weights; the cache and traces know only of
// those that have.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/compute/backend.h"
#include "engine/model/gated_mlp.h"
#include "engine/model/layer.h"
#include "engine/model/tensor_binder.h"

namespace hostler {

struct MoeConfig {
  int dim = 0;
  int experts = 0;  // with matrices: what the cache holds
  // Experts without, whose logits follow those of the others in this order.
  // Of those that give nothing there are gate.idle, the last.
  int constants = 0, copies = 0;
  // The gate adds a learned map of the logits that the MoE layer before had
  // (MoE++; Jin et al. 2024, equation 6).
  bool gate_residual = false;
  int choices() const { return experts + constants + copies + gate.idle; }

  GateSpec gate;                   // its bias is bound by the layer
  std::string gate_name = "gate";  // below the layer's prefix
  bool gate_bias = false;          // of the logits
  // Tensor that is added to the scores for choosing; "" for none.
  std::string correction_bias;
  bool weigh_input = false;  // weights multiply the experts' input (Llama 4)

  std::optional<GatedMlpConfig> shared;  // every token's expert
  std::string shared_name = "shared_expert.";
  bool shared_gate = false;  // multiplied by sigmoid(shared_expert_gate · x)
};

// `prefix`: "model.layers.3.mlp."; `index` counts MoE layers
// (ExpertKey::layer); `layout` is how the layer's experts lie in their slots.
std::unique_ptr<FeedForward> NewMoe(const MoeConfig& config, int index, const ExpertLayout& layout,
                                    const std::string& prefix, TensorBinder& binder);

}  // namespace hostler
