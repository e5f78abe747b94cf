// Chooses experts: a warp for each row, its scores in shared memory.
#include "engine/compute/cuda/device.cuh"
#include "engine/compute/cuda/kernels.h"

namespace hostler {
namespace {

// Shared memory of a row.
struct Row {
  float* scores;        // [experts] what weighs
  float* choosing;      // [experts] what chooses
  float* group_scores;  // [groups]
  float* taken;         // [experts] not 0: chosen

  __device__ Row(const GateTask& task, float* shared)
      : scores(shared),
        choosing(scores + task.experts),
        group_scores(choosing + task.experts),
        taken(group_scores + task.groups) {}
};

__host__ __device__ constexpr size_t SharedFloatsFor(int experts, int groups) {
  return size_t(experts) * 3 + groups;
}

__device__ int Lane() { return static_cast<int>(threadIdx.x); }

// The strongest that is not taken, of equal ones the first. NaN is the weakest. -1: none.
__device__ int Strongest(const float* values, const float* taken, int count) {
  int best = -1;
  float value = 0;
  for (int e = Lane(); e < count; e += kWarpLanes) {
    if (taken[e] != 0) continue;
    const float candidate = values[e] == values[e] ? values[e] : -Infinity();
    if (best < 0 || candidate > value) {
      best = e;
      value = candidate;
    }
  }
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) {
    const int other = __shfl_xor_sync(0xffffffffu, best, lanes);
    const float other_value = __shfl_xor_sync(0xffffffffu, value, lanes);
    const bool better = best < 0 || other_value > value || (other_value == value && other < best);
    if (other >= 0 && better) {
      best = other;
      value = other_value;
    }
  }
  return best;
}

__device__ void Score(const GateTask& task, const float* logits, float* scores) {
  if (task.score == GateSpec::Score::kSoftmax) {
    float most = -Infinity();
    for (int e = Lane(); e < task.experts; e += kWarpLanes) most = fmaxf(most, logits[e]);
    most = WarpMax(most);
    float sum = 0;
    for (int e = Lane(); e < task.experts; e += kWarpLanes) {
      scores[e] = expf(logits[e] - most);
      sum += scores[e];
    }
    sum = WarpSum(sum);
    for (int e = Lane(); e < task.experts; e += kWarpLanes) scores[e] /= sum;
  } else {
    const bool sigmoid = task.score == GateSpec::Score::kSigmoid;
    for (int e = Lane(); e < task.experts; e += kWarpLanes) {
      scores[e] = sigmoid ? Sigmoid(logits[e]) : logits[e];
    }
  }
}

__device__ float GroupScore(const GateTask& task, const float* choosing, int size) {
  float best = choosing[0], second = -Infinity();
  for (int i = 1; i < size; ++i) {
    const float lower = choosing[i] < best ? choosing[i] : best;
    if (lower > second) second = lower;
    if (choosing[i] > best) best = choosing[i];
  }
  return task.best_two && size > 1 ? best + second : best;
}

// Scores with the bias, -infinity outside the best groups.
__device__ void Rank(const GateTask& task, const Row& row) {
  for (int e = Lane(); e < task.experts; e += kWarpLanes) {
    row.choosing[e] = row.scores[e] + (task.bias == nullptr ? 0.0f : task.bias[e]);
  }
  __syncwarp();
  if (task.groups == 1) return;
  const int size = task.experts / task.groups;
  for (int g = Lane(); g < task.groups; g += kWarpLanes) {
    row.group_scores[g] = GroupScore(task, row.choosing + g * size, size);
  }
  __syncwarp();
  for (int g = Lane(); g < task.groups; g += kWarpLanes) {
    int better = 0;
    for (int other = 0; other < task.groups; ++other) {
      if (row.group_scores[other] > row.group_scores[g]) ++better;
      if (row.group_scores[other] == row.group_scores[g] && other < g) ++better;
    }
    if (better < task.top_groups) continue;
    for (int i = 0; i < size; ++i) row.choosing[g * size + i] = -Infinity();
  }
  __syncwarp();
}

// See SparseMixer in cpu/gate.cc. `choosing` holds the logits that are left.
__device__ float MixerWeight(const GateTask& task, const float* logits, const float* left,
                             int best) {
  const float largest = left[best];
  float sum = 0;
  for (int e = Lane(); e < task.experts; e += kWarpLanes) {
    const float magnitude = fabsf(logits[e]);
    const float factor = magnitude > largest ? magnitude : largest;
    if (!((largest - logits[e]) / factor > 2.0f * task.jitter)) sum += expf(left[e] - largest);
  }
  return 1.0f / WarpSum(sum);
}

// Leaves out what is idle, weighs, scales. One lane.
__device__ int Finish(const GateTask& task, int count, int32_t* chosen, float* weights) {
  if (task.top_p > 0 && task.score != GateSpec::Score::kSparseMixer) {
    float sum = 0;
    for (int i = 0; i < count; ++i) {
      sum += weights[i];
      if (sum >= task.top_p) count = i + 1;
    }
  }
  int left = 0;
  for (int i = 0; i < count; ++i) {
    if (chosen[i] >= task.experts - task.idle) continue;
    chosen[left] = chosen[i];
    weights[left++] = weights[i];
  }
  if (task.score == GateSpec::Score::kLogits) {
    float most = -Infinity(), sum = 0;
    for (int i = 0; i < left; ++i) most = fmaxf(most, weights[i]);
    for (int i = 0; i < left; ++i) sum += weights[i] = expf(weights[i] - most);
    for (int i = 0; i < left; ++i) weights[i] /= sum;
  } else if (task.score != GateSpec::Score::kSparseMixer && task.normalize) {
    float sum = 0;
    for (int i = 0; i < left; ++i) sum += weights[i];
    sum += task.sum_epsilon;
    const float divisor = sum < task.least_sum ? task.least_sum : sum;
    for (int i = 0; i < left; ++i) weights[i] /= divisor;
  }
  for (int i = 0; i < left; ++i) weights[i] *= task.scale;
  return left;
}

__global__ void GateKernel(GateTask task, Mat logits) {
  const Row row(task, SharedFloats());
  const float* in = logits.row(blockIdx.x);
  int32_t* chosen = task.chosen + int64_t{blockIdx.x} * task.k;
  float* weights = task.weights + int64_t{blockIdx.x} * task.k;
  const bool mixer = task.score == GateSpec::Score::kSparseMixer;
  for (int e = Lane(); e < task.experts; e += kWarpLanes) {
    row.taken[e] = 0;
    row.choosing[e] = in[e];
  }
  if (!mixer) {
    Score(task, in, row.scores);
    __syncwarp();
    Rank(task, row);
  }
  __syncwarp();
  for (int i = 0; i < task.k; ++i) {
    const int best = Strongest(row.choosing, row.taken, task.experts);
    const float weight = mixer ? MixerWeight(task, in, row.choosing, best) : row.scores[best];
    __syncwarp();
    if (Lane() == 0) {
      row.taken[best] = 1;
      chosen[i] = best;
      weights[i] = weight;
      if (mixer) row.choosing[best] = -Infinity();
    }
    __syncwarp();
  }
  if (Lane() == 0) task.counts[blockIdx.x] = Finish(task, task.k, chosen, weights);
}

}  // namespace

static_assert(SharedFloatsFor(kMostGateExperts, 0) * sizeof(float) <= 48 << 10);

void LaunchGate(Launcher& launcher, const GateTask& task, Mat logits) {
  launcher.Run({.grid = dim3(static_cast<unsigned>(logits.rows)),
                .block = dim3(kWarpLanes),
                .shared_bytes = SharedFloatsFor(task.experts, task.groups) * sizeof(float)},
               {{RangeOf(logits), RangeOf(task.bias, task.experts)},
                {RangeOf(task.counts, logits.rows), RangeOf(task.chosen, logits.rows * task.k),
                 RangeOf(task.weights, logits.rows * task.k)}},
               &GateKernel, task, logits);
}

}  // namespace hostler
