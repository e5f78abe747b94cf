#include "engine/model/delta_net.h"

#include <cmath>
#include <vector>

namespace hostler {
namespace {

DeltaNetSpec SpecOf(const DeltaNetConfig& config) {
  DeltaNetSpec spec;
  spec.key_heads = config.key_heads;
  spec.value_heads = config.value_heads;
  spec.key_dim = config.key_dim;
  spec.value_dim = config.value_dim;
  spec.kernel = config.kernel;
  return spec;
}

class DeltaNet : public Mixer {
 public:
  DeltaNet(const DeltaNetConfig& config, size_t state_offset, const std::string& prefix,
           TensorBinder& binder);

  void Place(WorkArena& arena, int64_t rows) override;
  void Forward(const StepContext& step, Mat x, Mat out) override;

 private:
  int group() const { return config_.value_heads / config_.key_heads; }
  int64_t key_width() const { return int64_t{config_.key_heads} * config_.key_dim; }
  int64_t value_width() const { return int64_t{config_.value_heads} * config_.value_dim; }
  void BindDecay(const std::string& prefix, TensorBinder& binder);
  void Project(const StepContext& step, Mat x);
  void ProjectTogether(const StepContext& step, Mat x, Mat mixed, Mat z);

  const DeltaNetConfig config_;
  const size_t state_offset_;
  DeltaNetSpec spec_;
  Weight in_qkvz_;  // null data: in two
  Weight in_qkv_, in_z_;
  Weight in_ba_, norm_, out_;

  Mat qkvz_, ba_, mixed_, z_, beta_, decay_, values_;
};

DeltaNet::DeltaNet(const DeltaNetConfig& config, size_t state_offset, const std::string& prefix,
                   TensorBinder& binder)
    : config_(config), state_offset_(state_offset), spec_(SpecOf(config)) {
  const int64_t dim = config.dim, heads = config.value_heads;
  if (binder.Has(prefix + "in_proj_qkv.weight")) {
    in_qkv_ = binder.Matrix(prefix + "in_proj_qkv.weight", spec_.mixed_dim(), dim);
    in_z_ = binder.Matrix(prefix + "in_proj_z.weight", value_width(), dim);
  } else {
    in_qkvz_ =
        binder.Matrix(prefix + "in_proj_qkvz.weight", 2 * key_width() + 2 * value_width(), dim);
  }
  in_ba_ = binder.MatrixAsStored(prefix + "in_proj_ba.weight", 2 * heads, dim);
  spec_.conv = binder.Floats(prefix + "conv1d.weight", spec_.mixed_dim(), config.kernel);
  BindDecay(prefix, binder);
  spec_.dt_bias = binder.Floats(prefix + "dt_bias", heads);
  norm_ = binder.Vector(prefix + "norm.weight", config.value_dim);
  out_ = binder.Matrix(prefix + "out_proj.weight", dim, value_width());
}

void DeltaNet::BindDecay(const std::string& prefix, TensorBinder& binder) {
  if (!binder.Has(prefix + "minus_A")) {
    spec_.a_log = binder.Floats(prefix + "A_log", config_.value_heads);
    return;
  }
  spec_.a_log = binder.Floats(prefix + "minus_A", config_.value_heads);
  for (float& a : spec_.a_log) a = std::log(-a);
}

void DeltaNet::Place(WorkArena& arena, int64_t rows) {
  qkvz_ = arena.Matrix(rows, in_qkvz_.rows);
  ba_ = arena.Matrix(rows, in_ba_.rows);
  mixed_ = arena.Matrix(rows, spec_.mixed_dim());
  z_ = arena.Matrix(rows, value_width());
  beta_ = arena.Matrix(rows, config_.value_heads);
  decay_ = arena.Matrix(rows, config_.value_heads);
  values_ = arena.Matrix(rows, value_width());
}

// The projections come by key head: each has its q, k, v and z.
void DeltaNet::ProjectTogether(const StepContext& step, Mat x, Mat mixed, Mat z) {
  Backend& backend = step.backend;
  const int64_t key = config_.key_dim, value = int64_t{group()} * config_.value_dim;
  const int heads = config_.key_heads;
  const Mat qkvz = qkvz_.first_rows(x.rows);
  backend.MatMul(in_qkvz_, x, qkvz);
  // mixed is all heads' q, then all k, then all v. Seen as rows of one head,
  // q, k and v of head h begin at different columns, so each goes by itself.
  for (int h = 0; h < heads; ++h) {
    const int64_t from = h * (2 * key + 2 * value);
    backend.CopyColumns(qkvz, from, key, 1, mixed, h * key);
    backend.CopyColumns(qkvz, from + key, key, 1, mixed, key_width() + h * key);
    backend.CopyColumns(qkvz, from + 2 * key, value, 1, mixed, 2 * key_width() + h * value);
  }
  backend.CopyColumns(qkvz, 2 * key + value, value, heads, z, 0);
}

void DeltaNet::Project(const StepContext& step, Mat x) {
  Backend& backend = step.backend;
  const int heads = config_.key_heads;
  const Mat mixed = mixed_.first_rows(x.rows), z = z_.first_rows(x.rows);
  const Mat ba = ba_.first_rows(x.rows);
  if (in_qkvz_.data != nullptr) {
    ProjectTogether(step, x, mixed, z);
  } else {
    backend.MatMul(in_qkv_, x, mixed);
    backend.MatMul(in_z_, x, z);
  }
  // By key head, too: the betas and decays of its value heads.
  backend.MatMul(in_ba_, x, ba);
  backend.CopyColumns(ba, 0, group(), heads, beta_.first_rows(x.rows), 0);
  backend.CopyColumns(ba, group(), group(), heads, decay_.first_rows(x.rows), 0);
}

void DeltaNet::Forward(const StepContext& step, Mat x, Mat out) {
  Backend& backend = step.backend;
  const Mat values = values_.first_rows(x.rows), z = z_.first_rows(x.rows);
  Project(step, x);
  backend.GatedDelta(spec_, step.batch, state_offset_, mixed_.first_rows(x.rows),
                     beta_.first_rows(x.rows), decay_.first_rows(x.rows), step.state, values);
  const Mat heads = values.reshaped(config_.value_dim);
  backend.RmsNorm(heads, norm_, config_.norm_eps, heads);
  backend.Activate({Activation::kSilu}, z, values, values);  // silu(z) * values
  backend.MatMul(out_, values, out);
}

}  // namespace

size_t DeltaNetConfig::state_bytes() const { return SpecOf(*this).state_floats() * sizeof(float); }

std::unique_ptr<Mixer> NewDeltaNet(const DeltaNetConfig& config, size_t state_offset,
                                   const std::string& prefix, TensorBinder& binder) {
  return std::make_unique<DeltaNet>(config, state_offset, prefix, binder);
}

}  // namespace hostler
