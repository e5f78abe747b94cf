#include "engine/compute/cpu/gate.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hostler {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// The k largest scores, strongest first, equal ones by the lower index. Always
// k different experts, even among NaNs.
void TopK(const float* scores, int experts, int k, int32_t* chosen, float* largest) {
  int count = 0;
  for (int e = 0; e < experts; ++e) {
    if (count == k && !(scores[e] > largest[k - 1])) continue;
    int at = count < k ? count++ : k - 1;
    for (; at > 0 && scores[e] > largest[at - 1]; --at) {
      largest[at] = largest[at - 1];
      chosen[at] = chosen[at - 1];
    }
    largest[at] = scores[e];
    chosen[at] = e;
  }
}

// Sparse mixer (Phi-3.5-MoE; Liu et al. 2023, "Bridging Discrete and
// Backpropagation", at inference): the strongest expert not yet chosen, weighed
// by its softmax over those left whose logit is near its own. `left` holds the
// logits and is -inf where chosen.
void SparseMixer(const float* logits, int experts, int k, float jitter, float* left,
                 int32_t* chosen, float* weights) {
  std::copy_n(logits, experts, left);
  for (int i = 0; i < k; ++i) {
    int best = -1;
    for (int e = 0; e < experts; ++e) {
      const bool taken = std::find(chosen, chosen + i, e) != chosen + i;
      if (!taken && (best < 0 || left[e] > left[best])) best = e;
    }
    const float largest = left[best];
    float sum = 0;
    for (int e = 0; e < experts; ++e) {
      const float factor = std::max(std::fabs(logits[e]), largest);
      if (!((largest - logits[e]) / factor > 2 * jitter)) sum += std::exp(left[e] - largest);
    }
    chosen[i] = best;
    weights[i] = 1 / sum;
    left[best] = kNever;
  }
}

// Chooses for one row at a time.
class RowGate {
 public:
  RowGate(const KernelTable& kernels, const GateSpec& spec, int experts)
      : kernels_(kernels),
        spec_(spec),
        experts_(experts),
        k_(std::clamp(spec.top_k, 0, experts)),
        groups_(spec.top_groups < spec.groups ? spec.groups : 1) {}

  int most() const { return k_; }
  size_t scratch_floats() const { return static_cast<size_t>(2 * experts_ + groups_); }

  // Returns how many experts it chose, at most most().
  int Choose(const float* logits, float* scratch, int32_t* chosen, float* weights) const {
    float* scores = scratch;
    float* choosing = scratch + experts_;
    int count = k_;
    if (spec_.score == GateSpec::Score::kSparseMixer) {
      SparseMixer(logits, experts_, k_, spec_.jitter, choosing, chosen, weights);
    } else {
      Score(logits, scores);
      const bool plain = spec_.bias.empty() && groups_ == 1;
      if (!plain) Rank(scores, choosing, choosing + experts_);
      TopK(plain ? scores : choosing, experts_, k_, chosen, weights);
      for (int i = 0; i < k_; ++i) weights[i] = scores[chosen[i]];
      if (spec_.top_p > 0) count = Reaching(spec_.top_p, weights);
    }
    count = DropIdle(count, chosen, weights);
    Weigh(weights, count);
    for (int i = 0; i < count; ++i) weights[i] *= spec_.scale;
    return count;
  }

 private:
  void Score(const float* logits, float* scores) const {
    switch (spec_.score) {
      case GateSpec::Score::kSoftmax:
        return kernels_.softmax(logits, experts_, scores);
      case GateSpec::Score::kSigmoid:
        return kernels_.sigmoid(logits, experts_, scores);
      default:
        std::copy_n(logits, experts_, scores);
    }
  }

  // What to choose by: scores with the bias, -inf outside the best groups.
  void Rank(const float* scores, float* choosing, float* group_scores) const {
    std::copy_n(scores, experts_, choosing);
    if (!spec_.bias.empty()) kernels_.add(spec_.bias.data(), experts_, choosing);
    if (groups_ == 1) return;
    const int size = experts_ / groups_;
    for (int g = 0; g < groups_; ++g) group_scores[g] = GroupScore(choosing + g * size, size);
    for (int g = 0; g < groups_; ++g) {
      int better = 0;
      for (int other = 0; other < groups_; ++other) {
        if (group_scores[other] > group_scores[g]) ++better;
        if (group_scores[other] == group_scores[g] && other < g) ++better;
      }
      if (better >= spec_.top_groups) std::fill_n(choosing + g * size, size, kNever);
    }
  }

  float GroupScore(const float* scores, int size) const {
    float best = scores[0];
    float second = kNever;
    for (int i = 1; i < size; ++i) {
      second = std::max(second, std::min(best, scores[i]));
      best = std::max(best, scores[i]);
    }
    return spec_.group_score == GateSpec::GroupScore::kBestTwo && size > 1 ? best + second : best;
  }

  // How many of the chosen, strongest first, reach `probability` together.
  int Reaching(float probability, const float* weights) const {
    float sum = 0;
    for (int i = 0; i < k_; ++i) {
      sum += weights[i];
      if (sum >= probability) return i + 1;
    }
    return k_;
  }

  int DropIdle(int count, int32_t* chosen, float* weights) const {
    int left = 0;
    for (int i = 0; i < count; ++i) {
      if (chosen[i] >= experts_ - spec_.idle) continue;
      chosen[left] = chosen[i];
      weights[left++] = weights[i];
    }
    return left;
  }

  void Weigh(float* weights, int count) const {
    if (count == 0 || spec_.score == GateSpec::Score::kSparseMixer) return;
    if (spec_.score == GateSpec::Score::kLogits) return kernels_.softmax(weights, count, weights);
    if (!spec_.normalize) return;
    float sum = 0;
    for (int i = 0; i < count; ++i) sum += weights[i];
    const float divisor = std::max(sum + spec_.sum_epsilon, spec_.least_sum);
    for (int i = 0; i < count; ++i) weights[i] /= divisor;
  }

  const KernelTable& kernels_;
  const GateSpec& spec_;
  const int experts_;
  const int k_;
  const int groups_;  // 1: none are masked
};

// Closes the gaps between rows that chose fewer than `most`; offsets[r + 1] is
// the number that row r chose, and becomes the end of its entries.
void Compact(int most, ExpertSelection* selection) {
  int32_t end = 0;
  const size_t rows = selection->offsets.size() - 1;
  for (size_t r = 0; r < rows; ++r) {
    const int32_t count = selection->offsets[r + 1];
    const int64_t from = static_cast<int64_t>(r) * most;
    if (from != end) {
      std::copy_n(selection->experts.begin() + from, count, selection->experts.begin() + end);
      std::copy_n(selection->weights.begin() + from, count, selection->weights.begin() + end);
    }
    end += count;
    selection->offsets[r + 1] = end;
  }
  selection->experts.resize(static_cast<size_t>(end));
  selection->weights.resize(static_cast<size_t>(end));
}

}  // namespace

void CpuSelectExperts(CpuContext& context, const GateSpec& spec, Mat logits,
                      ExpertSelection* selection) {
  const int experts = static_cast<int>(logits.cols);
  const RowGate gate(context.kernels(), spec, experts);
  const size_t rows = static_cast<size_t>(logits.rows);
  const size_t most = static_cast<size_t>(gate.most());
  selection->offsets.assign(rows + 1, 0);
  selection->experts.resize(rows * most);
  selection->weights.resize(rows * most);
  if (most == 0) return;
  context.ReserveScratch(gate.scratch_floats());
  context.For(logits.rows, logits.rows * experts * 4, [&](int64_t r, int thread) {
    const size_t row = static_cast<size_t>(r);
    selection->offsets[row + 1] =
        gate.Choose(logits.row(r), context.scratch(thread), selection->experts.data() + row * most,
                    selection->weights.data() + row * most);
  });
  Compact(gate.most(), selection);
}

}  // namespace hostler
