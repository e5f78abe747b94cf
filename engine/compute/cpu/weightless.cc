#include "engine/compute/cpu/weightless.h"

#include <cmath>

namespace hostler {

void CpuAddWeightless(CpuContext& context, const WeightlessExperts& experts,
                      const ExpertSelection& selection, Mat mix, Mat x, Mat y) {
  const float* constants = reinterpret_cast<const float*>(experts.constants.data);
  const int64_t entries = static_cast<int64_t>(selection.experts.size());
  context.For(y.rows, 2 * entries * y.cols, [&](int64_t r, int) {
    const auto add = [&](float weight, const float* values) {
      context.kernels().add_weighted(&weight, 1, values, y.cols, y.row(r));
    };
    const size_t row = static_cast<size_t>(r);
    for (size_t e = size_t(selection.offsets[row]); e < size_t(selection.offsets[row + 1]); ++e) {
      const float weight = selection.weights[e];
      const int64_t index = selection.experts[e] - experts.first;
      if (index >= experts.constants.rows) {
        add(weight, x.row(r));
        continue;
      }
      const float* logits = mix.row(r) + 2 * index;
      const float of_input = 1 / (1 + std::exp(logits[1] - logits[0]));
      add(weight * of_input, x.row(r));
      add(weight * (1 - of_input), constants + index * y.cols);
    }
  });
}

}  // namespace hostler
