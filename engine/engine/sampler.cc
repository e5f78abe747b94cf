#include "engine/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hostler {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// A uniform number in [0, 1) from three counters (SplitMix64's finaliser,
// Steele et al. 2014, applied to each in turn).
double UniformFrom(uint64_t seed, uint64_t stream, uint64_t draw) {
  const auto mix = [](uint64_t z) {
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  return static_cast<double>(mix(mix(mix(seed) ^ stream) ^ draw) >> 11) * 0x1.0p-53;
}

// The first of the largest values. Keeps a maximum for each of several places
// side by side, which compilers make vectors of, and then looks for it in the
// one block that has it.
template <typename T>
size_t IndexOfMax(std::span<const T> values) {
  constexpr size_t kLanes = 16, kBlock = 64 * kLanes;
  const auto largest = [](std::span<const T> block) {
    T lanes[kLanes];
    std::fill(std::begin(lanes), std::end(lanes), -std::numeric_limits<T>::infinity());
    size_t i = 0;
    for (; i + kLanes <= block.size(); i += kLanes) {
#pragma GCC unroll 1  // not at all, else GCC makes no vectors of it
      for (size_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] = block[i + lane] > lanes[lane] ? block[i + lane] : lanes[lane];
      }
    }
    T max = *std::max_element(std::begin(lanes), std::end(lanes));
    for (; i < block.size(); ++i) max = block[i] > max ? block[i] : max;
    return max;
  };
  size_t best = 0;
  T max = -std::numeric_limits<T>::infinity();
  for (size_t i = 0; i < values.size(); i += kBlock) {
    const T found = largest(values.subspan(i, std::min(kBlock, values.size() - i)));
    if (found > max) {
      max = found;
      best = i;
    }
  }
  const auto end = values.end();
  const auto at = std::find(values.begin() + static_cast<ptrdiff_t>(best), end, max);
  return at == end ? 0 : static_cast<size_t>(at - values.begin());
}

}  // namespace

Sampler::Sampler(SamplingRule rule, uint64_t seed, uint64_t stream, std::span<const int32_t> prompt)
    : rule_(std::move(rule)), seed_(seed), stream_(stream) {
  if (rule_.repetition_penalty != 1) prompt_tokens_.insert(prompt.begin(), prompt.end());
}

void Sampler::Accept(int32_t token) {
  if (rule_.changes_logits()) ++output_counts_[token];
}

void Sampler::AdjustLogits(std::span<const float> logits, std::span<const int32_t> banned) {
  adjusted_.assign(logits.begin(), logits.end());
  const auto in_range = [&](int32_t id) { return id >= 0 && size_t(id) < adjusted_.size(); };
  for (const auto& [id, bias] : rule_.logit_bias) {
    if (in_range(id)) adjusted_[id] += bias;
  }
  if (rule_.repetition_penalty != 1) {
    const auto penalize = [&](int32_t id) {
      double& z = adjusted_[id];
      z = z > 0 ? z / rule_.repetition_penalty : z * rule_.repetition_penalty;
    };
    for (int32_t id : prompt_tokens_) penalize(id);
    for (const auto& [id, count] : output_counts_) {
      if (!prompt_tokens_.contains(id)) penalize(id);
    }
  }
  if (rule_.frequency_penalty != 0 || rule_.presence_penalty != 0) {
    for (const auto& [id, count] : output_counts_) {
      adjusted_[id] -= rule_.frequency_penalty * count + rule_.presence_penalty;
    }
  }
  for (int32_t id : banned) {
    if (in_range(id)) adjusted_[id] = kMinusInfinity;
  }
}

int32_t Sampler::ArgMax() const {
  return static_cast<int32_t>(IndexOfMax(std::span<const double>(adjusted_)));
}

void Sampler::KeepCandidates() {
  kept_.clear();
  const double max_z = adjusted_[ArgMax()] / rule_.temperature;
  // min_p: q < m * max(q) means z < max(z) + log(m). -inf (masked) never stays.
  const double least = rule_.min_p > 0 ? max_z + std::log(rule_.min_p) : kMinusInfinity;
  for (size_t id = 0; id < adjusted_.size(); ++id) {
    const double z = adjusted_[id] / rule_.temperature;
    if (z >= least && z > kMinusInfinity) kept_.push_back({static_cast<int32_t>(id), z});
  }
  const auto stronger = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  if (rule_.top_k > 0 && size_t(rule_.top_k) < kept_.size()) {
    const auto kth = kept_.begin() + (rule_.top_k - 1);
    std::nth_element(kept_.begin(), kth, kept_.end(), stronger);
    const double cut = kth->weight;  // ties with the k-th largest are all kept
    std::erase_if(kept_, [cut](const Candidate& c) { return c.weight < cut; });
  }
  for (Candidate& c : kept_) c.weight = std::exp(c.weight - max_z);
  total_ = 0;
  for (const Candidate& c : kept_) total_ += c.weight;
  if (rule_.top_p < 1) {
    // The smallest prefix, strongest first, whose mass reaches top_p.
    std::sort(kept_.begin(), kept_.end(), stronger);
    double mass = 0;
    size_t count = 0;
    while (count < kept_.size() && (count == 0 || mass < rule_.top_p * total_)) {
      mass += kept_[count++].weight;
    }
    kept_.resize(count);
    total_ = mass;
  }
}

int32_t Sampler::Sample(std::span<const float> logits, std::span<const int32_t> banned) {
  int32_t token = 0;
  if (rule_.temperature == 0 && !rule_.changes_logits() && banned.empty()) {
    token = static_cast<int32_t>(IndexOfMax(logits));
  } else {
    AdjustLogits(logits, banned);
    token = ArgMax();
    if (rule_.temperature > 0) {
      KeepCandidates();
      double left = UniformFrom(seed_, stream_, draws_) * total_;
      for (const Candidate& c : kept_) {
        token = c.id;
        left -= c.weight;
        if (left < 0) break;
      }
    }
  }
  ++draws_;
  Accept(token);
  return token;
}

std::vector<double> Sampler::Distribution(std::span<const float> logits,
                                          std::span<const int32_t> banned) {
  AdjustLogits(logits, banned);
  std::vector<double> probabilities(logits.size(), 0.0);
  if (rule_.temperature == 0) {
    probabilities[ArgMax()] = 1;
    return probabilities;
  }
  KeepCandidates();
  for (const Candidate& c : kept_) probabilities[c.id] = c.weight / total_;
  return probabilities;
}

}  // namespace hostler
