#include "engine/model/mla.h"

#include <vector>

namespace hostler {
namespace {

class LatentAttention : public Mixer {
 public:
  LatentAttention(const MlaConfig& config, int kv_layer, const std::string& prefix,
                  TensorBinder& binder);

  void Place(WorkArena& arena, int64_t rows) override;
  void Forward(const StepContext& step, Mat x, Mat out) override;

 private:
  int64_t q_head() const { return config_.nope_dim + config_.rope_dim; }
  int64_t latent_head() const { return config_.kv_rank + config_.rope_dim; }
  void AbsorbUpProjection(const std::string& name, TensorBinder& binder);
  void ProjectQ(const StepContext& step, Mat x, Mat latent_q);
  void ProjectKv(const StepContext& step, Mat x, Mat latent_k);

  const MlaConfig config_;
  const int kv_layer_;
  AttentionSpec spec_;
  Weight q_, q_down_, q_up_, q_norm_, q_down_bias_;
  Weight kv_down_, kv_norm_, kv_down_bias_;
  // The halves of kv_b_proj: q_nope → latent [heads * kv_rank, nope_dim], and
  // latent → value [heads * v_dim, kv_rank].
  Weight to_latent_, to_value_;
  Weight o_, o_bias_;

  Mat q_low_, q_work_, q_nope_, q_latent_, latent_q_;
  Mat kv_low_, latent_, latent_k_, attended_, values_;
};

LatentAttention::LatentAttention(const MlaConfig& config, int kv_layer, const std::string& prefix,
                                 TensorBinder& binder)
    : config_(config), kv_layer_(kv_layer) {
  spec_.heads = config.heads;
  spec_.scale = config.scale;
  const int64_t q_rows = config.heads * q_head();
  if (config.q_rank > 0) {
    q_down_ = binder.Matrix(prefix + "q_a_proj.weight", config.q_rank, config.dim);
    q_norm_ = binder.Vector(prefix + "q_a_layernorm.weight", config.q_rank);
    q_up_ = binder.Matrix(prefix + "q_b_proj.weight", q_rows, config.q_rank);
    if (config.bias) q_down_bias_ = binder.Vector(prefix + "q_a_proj.bias", config.q_rank);
  } else {
    q_ = binder.Matrix(prefix + "q_proj.weight", q_rows, config.dim);
  }
  kv_down_ = binder.Matrix(prefix + "kv_a_proj_with_mqa.weight", latent_head(), config.dim);
  kv_norm_ = binder.Vector(prefix + "kv_a_layernorm.weight", config.kv_rank);
  if (binder.Has(prefix + "k_b_proj.weight")) {  // split and transposed already
    to_latent_ = binder.Matrix(prefix + "k_b_proj.weight", int64_t{config.heads} * config.kv_rank,
                               config.nope_dim, config.heads);
    to_value_ = binder.Matrix(prefix + "v_b_proj.weight", int64_t{config.heads} * config.v_dim,
                              config.kv_rank, config.heads);
  } else {
    AbsorbUpProjection(prefix + "kv_b_proj.weight", binder);
  }
  o_ = binder.Matrix(prefix + "o_proj.weight", config.dim, int64_t{config.heads} * config.v_dim);
  if (config.bias) {
    kv_down_bias_ = binder.Vector(prefix + "kv_a_proj_with_mqa.bias", latent_head());
    o_bias_ = binder.Vector(prefix + "o_proj.bias", config.dim);
  }
}

// Each head's rows of kv_b_proj [nope_dim + v_dim, kv_rank]: the first part is
// transposed, so that it takes q to the latent instead of the latent to k.
void LatentAttention::AbsorbUpProjection(const std::string& name, TensorBinder& binder) {
  const int64_t rank = config_.kv_rank, nope = config_.nope_dim, v_dim = config_.v_dim;
  const int64_t head_rows = nope + v_dim;
  const std::vector<float> up = binder.Floats(name, config_.heads * head_rows, rank);
  if (up.empty()) return;
  std::vector<float> to_latent(config_.heads * rank * nope), to_value;
  for (int64_t head = 0; head < config_.heads; ++head) {
    const float* rows = up.data() + head * head_rows * rank;
    for (int64_t i = 0; i < nope; ++i) {
      for (int64_t j = 0; j < rank; ++j) {
        to_latent[(head * rank + j) * nope + i] = rows[i * rank + j];
      }
    }
    to_value.insert(to_value.end(), rows + nope * rank, rows + head_rows * rank);
  }
  const DType stored = binder.TypeOf(name);
  const bool plain = GetDTypeInfo(stored).block_elements == 1 && stored != DType::kF8E4M3;
  const DType type = plain ? stored : binder.fp8_type();
  to_latent_ = binder.MakeMatrix(to_latent, type, config_.heads * rank, nope, config_.heads);
  to_value_ = binder.MakeMatrix(to_value, type, config_.heads * v_dim, rank, config_.heads);
}

void LatentAttention::Place(WorkArena& arena, int64_t rows) {
  const int64_t heads = config_.heads;
  if (config_.q_rank > 0) q_low_ = arena.Matrix(rows, config_.q_rank);
  q_work_ = arena.Matrix(rows, heads * q_head());
  q_nope_ = arena.Matrix(rows, heads * config_.nope_dim);
  q_latent_ = arena.Matrix(rows, heads * config_.kv_rank);
  latent_q_ = arena.Matrix(rows, heads * latent_head());
  kv_low_ = arena.Matrix(rows, latent_head());
  latent_ = arena.Matrix(rows, config_.kv_rank);
  latent_k_ = arena.Matrix(rows, latent_head());
  attended_ = arena.Matrix(rows, heads * config_.kv_rank);
  values_ = arena.Matrix(rows, heads * config_.v_dim);
}

// q of every head as [latent | rope], to be compared with the cached keys.
void LatentAttention::ProjectQ(const StepContext& step, Mat x, Mat latent_q) {
  Backend& backend = step.backend;
  const int heads = config_.heads;
  const Mat q = q_work_.first_rows(x.rows), nope = q_nope_.first_rows(x.rows);
  const Mat q_latent = q_latent_.first_rows(x.rows);
  if (config_.q_rank > 0) {
    const Mat low = q_low_.first_rows(x.rows);
    backend.MatMul(q_down_, x, low);
    if (config_.bias) backend.AddBias(q_down_bias_, low);
    backend.RmsNorm(low, q_norm_, config_.norm_eps, low);
    backend.MatMul(q_up_, low, q);
  } else {
    backend.MatMul(q_, x, q);
  }
  backend.CopyColumns(q, 0, config_.nope_dim, heads, nope, 0);
  backend.HeadMatMul(to_latent_, heads, nope, q_latent);
  backend.CopyColumns(q_latent, 0, config_.kv_rank, heads, latent_q, 0);
  backend.CopyColumns(q, config_.nope_dim, config_.rope_dim, heads, latent_q, config_.kv_rank);
  backend.Rope(*config_.rope, step.batch, static_cast<int>(latent_head()), latent_q);
}

// Each token's key as [normalised latent | rope].
void LatentAttention::ProjectKv(const StepContext& step, Mat x, Mat latent_k) {
  Backend& backend = step.backend;
  const Mat low = kv_low_.first_rows(x.rows), latent = latent_.first_rows(x.rows);
  backend.MatMul(kv_down_, x, low);
  if (config_.bias) backend.AddBias(kv_down_bias_, low);
  backend.CopyColumns(low, 0, config_.kv_rank, 1, latent, 0);
  backend.RmsNorm(latent, kv_norm_, config_.norm_eps, latent);
  backend.CopyColumns(latent, 0, config_.kv_rank, 1, latent_k, 0);
  backend.CopyColumns(low, config_.kv_rank, config_.rope_dim, 1, latent_k, config_.kv_rank);
  backend.Rope(*config_.rope, step.batch, static_cast<int>(latent_head()), latent_k);
}

void LatentAttention::Forward(const StepContext& step, Mat x, Mat out) {
  Backend& backend = step.backend;
  const Mat latent_q = latent_q_.first_rows(x.rows), latent_k = latent_k_.first_rows(x.rows);
  const Mat attended = attended_.first_rows(x.rows), values = values_.first_rows(x.rows);
  ProjectQ(step, x, latent_q);
  ProjectKv(step, x, latent_k);
  backend.AppendKv(step.batch, kv_layer_, latent_k, Mat{}, step.kv);
  backend.Attention(spec_, step.batch, kv_layer_, latent_q, step.kv, attended);
  backend.HeadMatMul(to_value_, config_.heads, attended, values);
  backend.MatMul(o_, values, out);
  if (config_.bias) backend.AddBias(o_bias_, out);
}

}  // namespace

std::unique_ptr<Mixer> NewMla(const MlaConfig& config, int kv_layer, const std::string& prefix,
                              TensorBinder& binder) {
  return std::make_unique<LatentAttention>(config, kv_layer, prefix, binder);
}

}  // namespace hostler
