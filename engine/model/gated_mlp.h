// The gated feed-forward network of dense layers and shared experts:
// down · act(gate · x, up · x).
#pragma once

#include <string>

#include "engine/compute/backend.h"
#include "engine/model/layer.h"
#include "engine/model/tensor_binder.h"

namespace hostler {

struct GatedMlpConfig {
  int dim = 0, ffn = 0;
  ActivationSpec activation;
  bool bias = false;
  bool fused_gate_up = false;  // one gate_up_proj matrix, rows gate then up
};

class GatedMlp : public FeedForward {
 public:
  // `prefix`: "model.layers.3.mlp.".
  GatedMlp(const GatedMlpConfig& config, const std::string& prefix, TensorBinder& binder);
  void Place(WorkArena& arena, int64_t rows) override;
  void Forward(const StepContext& step, Mat x, Mat out) override;

 private:
  const GatedMlpConfig config_;
  Weight gate_, up_, down_;
  Weight gate_bias_, up_bias_, down_bias_;  // null data: none
  Mat gate_work_, up_work_;
};

}  // namespace hostler
