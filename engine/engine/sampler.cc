#include "engine/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
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

// Logits are looked through by blocks, several lanes at a time.
constexpr size_t kBlock = 64;
constexpr size_t kLanes = 8;

// The largest of a block's values.
template <typename T>
T LargestOf(const T* values, size_t n) {
  if (n < kBlock) return *std::max_element(values, values + n);
  T largest __attribute__((vector_size(kLanes * sizeof(T))));
  T next __attribute__((vector_size(kLanes * sizeof(T))));
  std::memcpy(&largest, values, sizeof largest);
  for (size_t i = kLanes; i < kBlock; i += kLanes) {
    std::memcpy(&next, values + i, sizeof next);
    largest = largest > next ? largest : next;
  }
  T result = largest[0];
  for (size_t i = 1; i < kLanes; ++i) result = std::max<T>(result, largest[i]);
  return result;
}

// The first of the largest values.
template <typename T>
int32_t FirstLargest(std::span<const T> values) {
  size_t best = 0;  // where the first block with the largest value begins
  T largest = values[0];
  for (size_t at = 0; at < values.size(); at += kBlock) {
    const T candidate = LargestOf(values.data() + at, std::min(kBlock, values.size() - at));
    if (!(candidate > largest)) continue;
    largest = candidate;
    best = at;
  }
  const auto found = std::find(values.begin() + best, values.end(), largest);
  return found == values.end() ? 0 : static_cast<int32_t>(found - values.begin());  // 0: NaN
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

int32_t Sampler::ArgMax() const { return FirstLargest<double>(adjusted_); }

double Sampler::LeastOfTopK() {
  const size_t k = static_cast<size_t>(rule_.top_k);
  if (k == 0 || (adjusted_.size() + kBlock - 1) / kBlock < k) return kMinusInfinity;
  block_largest_.clear();
  for (size_t at = 0; at < adjusted_.size(); at += kBlock) {
    block_largest_.push_back(
        LargestOf(adjusted_.data() + at, std::min(kBlock, adjusted_.size() - at)));
  }
  const auto kth = block_largest_.begin() + static_cast<std::ptrdiff_t>(k) - 1;
  std::nth_element(block_largest_.begin(), kth, block_largest_.end(), std::greater<>());
  return *kth;
}

void Sampler::KeepCandidates() {
  kept_.clear();
  const double max_z = adjusted_[ArgMax()] / rule_.temperature;
  // min_p: q < m * max(q) means z < max(z) + log(m). -inf (masked) never stays.
  const double least = rule_.min_p > 0 ? max_z + std::log(rule_.min_p) : kMinusInfinity;
  const double least_adjusted = LeastOfTopK();
  for (size_t id = 0; id < adjusted_.size(); ++id) {
    if (adjusted_[id] < least_adjusted) continue;
    const double z = adjusted_[id] / rule_.temperature;
    if (z >= least && z > kMinusInfinity) kept_.push_back({static_cast<int32_t>(id), z});
  }
  CutTopK();
  KeepWeights(max_z);
}

// The order stays: sums and draws go through candidates by their ids.
void Sampler::CutTopK() {
  if (rule_.top_k <= 0 || size_t(rule_.top_k) >= kept_.size()) return;
  weights_.clear();
  for (const Candidate& c : kept_) weights_.push_back(c.weight);
  const auto kth = weights_.begin() + (rule_.top_k - 1);
  std::nth_element(weights_.begin(), kth, weights_.end(), std::greater<>());
  const double cut = *kth;  // ties with the k-th largest are all kept
  std::erase_if(kept_, [cut](const Candidate& c) { return c.weight < cut; });
}

void Sampler::KeepWeights(double max_z) {
  for (Candidate& c : kept_) c.weight = std::exp(c.weight - max_z);
  total_ = 0;
  for (const Candidate& c : kept_) total_ += c.weight;
  if (rule_.top_p < 1) KeepTopP();
}

void Sampler::KeepTopP() {
  // The smallest prefix, strongest first, whose mass reaches top_p. It is short as a
  // rule: sorted is as much as it takes, twice as much each time.
  double mass = 0;
  size_t count = 0, sorted = 0;
  while (count < kept_.size() && (count == 0 || mass < rule_.top_p * total_)) {
    if (count == sorted) {
      sorted = std::min(std::max<size_t>(2 * sorted, 128), kept_.size());
      const auto from = kept_.begin() + static_cast<std::ptrdiff_t>(count);
      const auto to = kept_.begin() + static_cast<std::ptrdiff_t>(sorted);
      std::nth_element(from, to - 1, kept_.end(), Stronger);
      std::sort(from, to, Stronger);
    }
    mass += kept_[count++].weight;
  }
  kept_.resize(count);
  total_ = mass;
}

int32_t Sampler::Sample(std::span<const float> logits, std::span<const int32_t> banned) {
  int32_t token = 0;
  if (rule_.temperature == 0 && !rule_.changes_logits() && banned.empty()) {
    token = FirstLargest(logits);
  } else {
    AdjustLogits(logits, banned);
    token = ArgMax();
    if (rule_.temperature > 0) {
      KeepCandidates();
      if (!kept_.empty()) token = DrawFromKept();
    }
  }
  return Drawn(token);
}

int32_t Sampler::DrawFromKept() {
  double left = UniformFrom(seed_, stream_, draws_) * total_;
  int32_t token = 0;
  for (const Candidate& c : kept_) {
    token = c.id;
    left -= c.weight;
    if (left < 0) break;
  }
  return token;
}

int32_t Sampler::Drawn(int32_t token) {
  ++draws_;
  Accept(token);
  return token;
}

// top_k and one more show what equals the last.
int SamplingRule::StrongestNeeded(size_t banned) const {
  if (changes_logits()) return 0;
  if (temperature == 0) return static_cast<int>(banned) + 1;
  return top_k > 0 ? static_cast<int>(banned) + top_k + 1 : 0;
}

bool Sampler::KeepStrongest(std::span<const LogitCandidate> strongest, int vocab,
                            std::span<const int32_t> banned) {
  kept_.clear();
  double least = kMinusInfinity;
  for (const LogitCandidate& c : strongest) {
    if (std::find(banned.begin(), banned.end(), c.id) != banned.end()) continue;
    const double z = static_cast<double>(c.logit) / rule_.temperature;
    if (kept_.empty() && rule_.min_p > 0) least = z + std::log(rule_.min_p);
    if (z < least || z == kMinusInfinity) return true;  // as all that follow
    kept_.push_back({c.id, z});
    // The first that is weaker than top_k others.
    const size_t k = static_cast<size_t>(rule_.top_k);
    if (kept_.size() > k && z < kept_[k - 1].weight) {
      kept_.pop_back();
      return true;
    }
  }
  return static_cast<int>(strongest.size()) == vocab;
}

std::optional<int32_t> Sampler::SampleFrom(std::span<const LogitCandidate> strongest, int vocab,
                                           std::span<const int32_t> banned) {
  if (rule_.StrongestNeeded(banned.size()) == 0) return std::nullopt;
  const auto first = std::find_if(strongest.begin(), strongest.end(), [&](LogitCandidate c) {
    return std::find(banned.begin(), banned.end(), c.id) == banned.end();
  });
  // Of rows that are not all numbers the whole is looked at.
  if (first == strongest.end() || !std::isfinite(strongest.front().logit) ||
      !std::isfinite(first->logit)) {
    return std::nullopt;
  }
  if (rule_.temperature == 0) return Drawn(first->id);
  if (!KeepStrongest(strongest, vocab, banned)) return std::nullopt;
  std::sort(kept_.begin(), kept_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  KeepWeights(static_cast<double>(first->logit) / rule_.temperature);
  return Drawn(DrawFromKept());
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
