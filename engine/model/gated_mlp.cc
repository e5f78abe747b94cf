#include "engine/model/gated_mlp.h"

namespace hostler {

GatedMlp::GatedMlp(const GatedMlpConfig& config, const std::string& prefix, TensorBinder& binder)
    : config_(config) {
  const int64_t dim = config.dim, ffn = config.ffn;
  if (config.fused_gate_up) {
    const std::string name = prefix + "gate_up_proj.weight";
    gate_ = binder.MatrixRows(name, 2 * ffn, 0, ffn, dim);
    up_ = binder.MatrixRows(name, 2 * ffn, ffn, ffn, dim);
  } else {
    gate_ = binder.Matrix(prefix + "gate_proj.weight", ffn, dim);
    up_ = binder.Matrix(prefix + "up_proj.weight", ffn, dim);
  }
  down_ = binder.Matrix(prefix + "down_proj.weight", dim, ffn);
  if (config.bias) {
    gate_bias_ = binder.Vector(prefix + "gate_proj.bias", ffn);
    up_bias_ = binder.Vector(prefix + "up_proj.bias", ffn);
    down_bias_ = binder.Vector(prefix + "down_proj.bias", dim);
  }
}

void GatedMlp::Place(WorkArena& arena, int64_t rows) {
  gate_work_ = arena.Matrix(rows, config_.ffn);
  up_work_ = arena.Matrix(rows, config_.ffn);
}

void GatedMlp::Forward(const StepContext& step, Mat x, Mat out) {
  Backend& backend = step.backend;
  const Mat gate = gate_work_.first_rows(x.rows), up = up_work_.first_rows(x.rows);
  backend.MatMul(gate_, x, gate);
  backend.MatMul(up_, x, up);
  if (config_.bias) {
    backend.AddBias(gate_bias_, gate);
    backend.AddBias(up_bias_, up);
  }
  backend.Activate(config_.activation, gate, up, gate);
  backend.MatMul(down_, gate, out);
  if (config_.bias) backend.AddBias(down_bias_, out);
}

}  // namespace hostler
