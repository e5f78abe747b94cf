#include "engine/compute/cpu/gate.h"

#include <algorithm>

namespace hostler {
namespace {

// The k largest scores, strongest first, equal ones by the lower index. Always
// k different experts, even among NaNs.
void TopK(const float* scores, int experts, int k, int32_t* chosen, float* weights) {
  int count = 0;
  for (int e = 0; e < experts; ++e) {
    if (count == k && !(scores[e] > weights[k - 1])) continue;
    int at = count < k ? count++ : k - 1;
    for (; at > 0 && scores[e] > weights[at - 1]; --at) {
      weights[at] = weights[at - 1];
      chosen[at] = chosen[at - 1];
    }
    weights[at] = scores[e];
    chosen[at] = e;
  }
}

}  // namespace

void CpuSelectExperts(CpuContext& context, const GateSpec& spec, Mat logits,
                      ExpertSelection* selection) {
  const int experts = static_cast<int>(logits.cols);
  const int k = std::clamp(spec.top_k, 0, experts);
  const size_t rows = static_cast<size_t>(logits.rows);
  selection->offsets.resize(rows + 1);
  selection->experts.resize(rows * static_cast<size_t>(k));
  selection->weights.resize(rows * static_cast<size_t>(k));
  for (size_t r = 0; r <= rows; ++r) selection->offsets[r] = static_cast<int32_t>(r) * k;
  if (k == 0) return;
  context.ReserveScratch(static_cast<size_t>(experts));
  context.For(logits.rows, logits.rows * experts * 4, [&](int64_t r, int thread) {
    float* scores = context.scratch(thread);
    float* weights = selection->weights.data() + r * k;
    context.kernels().softmax(logits.row(r), experts, scores);
    TopK(scores, experts, k, selection->experts.data() + r * k, weights);
    if (!spec.normalize) return;
    float sum = 0;
    for (int i = 0; i < k; ++i) sum += weights[i];
    for (int i = 0; i < k; ++i) weights[i] /= sum;
  });
}

}  // namespace hostler
