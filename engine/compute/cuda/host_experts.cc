#include "engine/compute/cuda/host_experts.h"

#include "engine/compute/cuda/exact_math.h"

namespace hostler {
namespace {

const std::byte* BiasAt(const std::byte* slot, size_t offset) {
  return offset == ExpertLayout::kNone ? nullptr : slot + offset;
}

}  // namespace

void HostExperts::Run(const ExpertLayout& layout, const ExpertTask& task, Mat x, Mat out) {
  const int64_t rows = static_cast<int64_t>(task.in_rows.size());
  const auto matrix = [rows](std::vector<float>& values, int64_t cols) {
    values.resize(static_cast<size_t>(rows * cols));
    return Mat{values.data(), rows, cols};
  };
  const Mat input = matrix(input_, layout.dim);
  const Mat gate = matrix(gate_, layout.ffn), up = matrix(up_, layout.ffn);
  for (int64_t r = 0; r < rows; ++r) {
    const float scale = task.in_scales.empty() ? 1.0f : task.in_scales[size_t(r)];
    const float* from = x.row(task.in_rows[size_t(r)]);
    for (int64_t i = 0; i < layout.dim; ++i) input.row(r)[i] = from[i] * scale;
  }
  const std::byte* const slot = task.slot;
  mat_mul_.Run(layout.gate(slot), BiasAt(slot, layout.gate_bias), input, gate);
  mat_mul_.Run(layout.up(slot), BiasAt(slot, layout.up_bias), input, up);
  const ActivationSpec& activation = layout.activation;
  pool_.ParallelFor(rows, [&](int64_t r, int) {
    float* const row = gate.row(r);
    for (int64_t i = 0; i < layout.ffn; ++i) {
      row[i] = ExactActivation(activation.kind, activation.limit, row[i], up.row(r)[i]);
    }
  });
  mat_mul_.Run(layout.down(slot), BiasAt(slot, layout.down_bias), gate, out);
}

}  // namespace hostler
