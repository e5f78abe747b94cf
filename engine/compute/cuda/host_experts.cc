#include "engine/compute/cuda/host_experts.h"

#include "engine/compute/cuda/exact_math.h"

namespace hostler {
namespace {

const std::byte* BiasAt(const std::byte* slot, size_t offset) {
  return offset == ExpertLayout::kNone ? nullptr : slot + offset;
}

}  // namespace

void HostExperts::Run(const ExpertLayout& layout, const ExpertTask& task, const float* x,
                      float* out) {
  const int64_t rows = static_cast<int64_t>(task.in_rows.size());
  const int64_t dim = layout.dim, ffn = layout.ffn;
  const std::byte* const slot = task.slot;
  input_.Resize(rows, dim, mat_mul_.FormsFor(layout.gate_type, layout.up_type));
  hidden_.Resize(rows, ffn, mat_mul_.FormsFor(layout.down_type, layout.down_type));
  gate_.resize(static_cast<size_t>(rows * ffn));
  up_.resize(static_cast<size_t>(rows * ffn));
  for (int64_t r = 0; r < rows; ++r) {
    input_.Set(r, x + task.in_rows[size_t(r)] * dim,
               task.in_scales.empty() ? 1.0f : task.in_scales[size_t(r)]);
  }
  mat_mul_.Run(layout.gate_type, slot + layout.gate_offset, BiasAt(slot, layout.gate_bias), ffn,
               input_, gate_.data(), ffn);
  mat_mul_.Run(layout.up_type, slot + layout.up_offset, BiasAt(slot, layout.up_bias), ffn, input_,
               up_.data(), ffn);
  const ActivationSpec& activation = layout.activation;
  pool_.ParallelFor(rows, [&](int64_t r, int) {
    float* const gate = gate_.data() + r * ffn;
    const float* const up = up_.data() + r * ffn;
    for (int64_t i = 0; i < ffn; ++i) {
      gate[i] = ExactActivation(activation.kind, activation.limit, gate[i], up[i]);
    }
    hidden_.Set(r, gate, 1.0f);
  });
  mat_mul_.Run(layout.down_type, slot + layout.down_offset, BiasAt(slot, layout.down_bias), dim,
               hidden_, out, dim);
}

}  // namespace hostler
