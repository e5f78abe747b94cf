#include "engine/model/attention.h"

#include <cmath>
#include <vector>

namespace hostler {
namespace {

class GroupedQueryAttention : public Mixer {
 public:
  GroupedQueryAttention(const AttentionConfig& config, int kv_layer, const std::string& prefix,
                        TensorBinder& binder);

  void Place(WorkArena& arena, int64_t rows) override;
  void Forward(const StepContext& step, Mat x, Mat out) override;

 private:
  int64_t q_dim() const { return int64_t{config_.heads} * config_.head_dim; }
  int64_t kv_dim() const { return int64_t{config_.kv_heads} * config_.head_dim; }
  void BindProjections(const std::string& prefix, TensorBinder& binder);
  void Project(Backend& backend, Mat x, Mat q, Mat k, Mat v) const;
  void NormHeads(Backend& backend, Mat q, Mat k) const;
  void ScaleByPosition(const StepContext& step, Mat q);

  const AttentionConfig config_;
  const int kv_layer_;
  AttentionSpec spec_;
  Weight q_, k_, v_, o_;
  Weight q_bias_, k_bias_, v_bias_, o_bias_;  // null data: none
  Weight q_norm_, k_norm_;

  Mat q_work_, k_work_, v_work_, attended_;
  Mat q_and_gate_, gate_work_;  // with an output gate
  std::vector<float> factors_;
};

GroupedQueryAttention::GroupedQueryAttention(const AttentionConfig& config, int kv_layer,
                                             const std::string& prefix, TensorBinder& binder)
    : config_(config), kv_layer_(kv_layer) {
  spec_.heads = config.heads;
  spec_.scale = config.scale;
  spec_.window = config.window;
  spec_.chunk = config.chunk;
  spec_.soft_cap = config.soft_cap;
  if (config.sinks) spec_.sinks = binder.Floats(prefix + "sinks", config.heads);
  BindProjections(prefix, binder);
  const bool per_head = config.qk_norm == QkNorm::kPerHead;
  if (per_head || config.qk_norm == QkNorm::kWhole) {
    q_norm_ = binder.Gain(prefix + "q_norm.weight", per_head ? config.head_dim : q_dim(),
                          config.gain_offset);
    k_norm_ = binder.Gain(prefix + "k_norm.weight", per_head ? config.head_dim : kv_dim(),
                          config.gain_offset);
  }
}

void GroupedQueryAttention::BindProjections(const std::string& prefix, TensorBinder& binder) {
  const int64_t dim = config_.dim;
  const int64_t q_rows = q_dim() * (config_.output_gate ? 2 : 1);
  if (config_.fused_qkv) {
    const std::string name = prefix + "qkv_proj.weight";
    const int64_t all = q_rows + 2 * kv_dim();
    q_ = binder.MatrixRows(name, all, 0, q_rows, dim);
    k_ = binder.MatrixRows(name, all, q_rows, kv_dim(), dim);
    v_ = binder.MatrixRows(name, all, q_rows + kv_dim(), kv_dim(), dim);
  } else {
    q_ = binder.Matrix(prefix + "q_proj.weight", q_rows, dim);
    k_ = binder.Matrix(prefix + "k_proj.weight", kv_dim(), dim);
    v_ = binder.Matrix(prefix + "v_proj.weight", kv_dim(), dim);
  }
  o_ = binder.Matrix(prefix + "o_proj.weight", dim, q_dim());
  if (config_.qkv_bias) {
    q_bias_ = binder.Vector(prefix + "q_proj.bias", q_rows);
    k_bias_ = binder.Vector(prefix + "k_proj.bias", kv_dim());
    v_bias_ = binder.Vector(prefix + "v_proj.bias", kv_dim());
  }
  if (config_.o_bias) o_bias_ = binder.Vector(prefix + "o_proj.bias", dim);
}

void GroupedQueryAttention::Place(WorkArena& arena, int64_t rows) {
  q_work_ = arena.Matrix(rows, q_dim());
  k_work_ = arena.Matrix(rows, kv_dim());
  v_work_ = arena.Matrix(rows, kv_dim());
  attended_ = arena.Matrix(rows, q_dim());
  if (config_.output_gate) {
    q_and_gate_ = arena.Matrix(rows, 2 * q_dim());
    gate_work_ = arena.Matrix(rows, q_dim());
  }
  factors_.reserve(rows);
}

void GroupedQueryAttention::Project(Backend& backend, Mat x, Mat q, Mat k, Mat v) const {
  const Mat q_out = config_.output_gate ? q_and_gate_.first_rows(x.rows) : q;
  backend.MatMul(q_, x, q_out);
  backend.MatMul(k_, x, k);
  backend.MatMul(v_, x, v);
  if (config_.qkv_bias) {
    backend.AddBias(q_bias_, q_out);
    backend.AddBias(k_bias_, k);
    backend.AddBias(v_bias_, v);
  }
  if (config_.output_gate) {  // each head's rows are its q, then its gate
    const Mat gate = gate_work_.first_rows(x.rows);
    backend.CopyColumns(q_out, 0, config_.head_dim, config_.heads, q, 0);
    backend.CopyColumns(q_out, config_.head_dim, config_.head_dim, config_.heads, gate, 0);
  }
}

void GroupedQueryAttention::NormHeads(Backend& backend, Mat q, Mat k) const {
  const bool whole = config_.qk_norm == QkNorm::kWhole;
  const Mat q_rows = whole ? q : q.reshaped(config_.head_dim);
  const Mat k_rows = whole ? k : k.reshaped(config_.head_dim);
  backend.RmsNorm(q_rows, q_norm_, config_.norm_eps, q_rows);
  backend.RmsNorm(k_rows, k_norm_, config_.norm_eps, k_rows);
}

void GroupedQueryAttention::ScaleByPosition(const StepContext& step, Mat q) {
  factors_.clear();
  for (const int32_t position : step.batch.positions) {
    const float periods = std::floor(static_cast<float>(position + 1) / config_.position_floor);
    factors_.push_back(std::log1p(periods) * config_.position_scale + 1.0f);
  }
  step.backend.ScaleRows(factors_, q);
}

void GroupedQueryAttention::Forward(const StepContext& step, Mat x, Mat out) {
  Backend& backend = step.backend;
  const Mat q = q_work_.first_rows(x.rows), k = k_work_.first_rows(x.rows);
  const Mat v = v_work_.first_rows(x.rows), attended = attended_.first_rows(x.rows);
  Project(backend, x, q, k, v);
  if (config_.qk_norm == QkNorm::kPerHead || config_.qk_norm == QkNorm::kWhole) {
    NormHeads(backend, q, k);
  }
  if (config_.clip > 0) {
    for (const Mat projected : {q, k, v}) backend.Clamp(config_.clip, projected);
  }
  if (config_.rope != nullptr) {
    backend.Rope(*config_.rope, step.batch, config_.head_dim, q);
    backend.Rope(*config_.rope, step.batch, config_.head_dim, k);
  }
  if (config_.qk_norm == QkNorm::kUnitAfterRope) NormHeads(backend, q, k);
  if (config_.position_scale != 0) ScaleByPosition(step, q);
  backend.AppendKv(step.batch, kv_layer_, k, v, step.kv);
  backend.Attention(spec_, step.batch, kv_layer_, q, step.kv, attended);
  if (config_.output_gate) backend.SigmoidGate(gate_work_.first_rows(x.rows), attended);
  backend.MatMul(o_, attended, out);
  if (config_.o_bias) backend.AddBias(o_bias_, out);
}

}  // namespace

std::unique_ptr<Mixer> NewAttention(const AttentionConfig& config, int kv_layer,
                                    const std::string& prefix, TensorBinder& binder) {
  return std::make_unique<GroupedQueryAttention>(config, kv_layer, prefix, binder);
}

}  // namespace hostler
