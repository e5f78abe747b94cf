#include <algorithm>
#include <array>
#include <limits>

#include "cache/policy_scored.h"

namespace hostler {
namespace {

constexpr int kNever = std::numeric_limits<int>::max();
constexpr double kRate = 0.06;
constexpr double kHazardShare = 0.7;
constexpr double kLeastChance = 1e-4;

// Ages of the last use in visits of the layer, and averages of use: a bucket
// ends below each of these.
constexpr std::array kAgeEnds = {2, 3, 4, 5, 7, 9, 12, 16, 24, 32, 48, 64, kNever};
constexpr std::array kRateEnds = {.001, .01, .02, .04, .06, .1, .15, .2, .3, .5};
constexpr int kAgeBuckets = kAgeEnds.size() + 1;
constexpr int kRateBuckets = kRateEnds.size() + 1;

template <typename Ends, typename T>
int Bucket(const Ends& ends, T value) {
  return static_cast<int>(std::upper_bound(ends.begin(), ends.end(), value) - ends.begin());
}

class ForwardDistancePolicy : public ScoredPolicy {
 public:
  explicit ForwardDistancePolicy(PolicyShape shape)
      : ScoredPolicy(shape),
        rate_(size_t(shape.layers) * shape.experts),
        age_(rate_.size(), kNever),
        used_(shape.experts) {
    tallies_.fill({0.05, 1});
  }

  std::string_view name() const override { return "forward_distance"; }

  Popularity ExportPopularity() const override {
    return {shape().layers, shape().experts, {rate_.begin(), rate_.end()}};
  }

  void ImportPopularity(const Popularity& popularity) override {
    if (popularity.layers != shape().layers || popularity.experts != shape().experts ||
        popularity.rate.size() != rate_.size()) {
      return;
    }
    std::copy(popularity.rate.begin(), popularity.rate.end(), rate_.begin());
    for (int layer = 0; layer < shape().layers; ++layer) {
      Score(layer);
      ScoresChanged(layer);
    }
  }

 private:
  struct Tally {
    double uses = 0;
    double visits = 0;
  };

  void Update(const ExpertRequest& request) override {
    if (request.sequences > 1) {
      Visit(request.layer, request.experts);
    } else {
      for (int t = 0; t < request.num_tokens(); ++t) Visit(request.layer, request.token(t));
    }
    Score(request.layer);
  }

  void Score(int layer) {
    const size_t first = size_t(layer) * shape().experts;
    float* score = scores(layer);
    for (int expert = 0; expert < shape().experts; ++expert) {
      const Tally& tally = TallyOf(first + expert);
      const double chance =
          kHazardShare * tally.uses / tally.visits + (1 - kHazardShare) * rate_[first + expert];
      score[expert] = static_cast<float>(std::max(chance, kLeastChance));
    }
  }

  float Across(int layer, float chance) const override {
    const int layers = shape().layers;
    const int until_visit = (layer - running_layer() + layers - 1) % layers + 1;
    return -(until_visit + layers * (1 - chance) / chance);
  }

  void Visit(int layer, std::span<const int> chosen) {
    for (const int expert : chosen) used_[expert] = 1;
    for (int expert = 0; expert < shape().experts; ++expert) {
      const size_t i = size_t(layer) * shape().experts + expert;
      Tally& tally = TallyOf(i);
      tally.uses += used_[expert];
      tally.visits += 1;
      rate_[i] += kRate * (used_[expert] - rate_[i]);
      age_[i] = used_[expert] ? 1 : age_[i] == kNever ? kNever : age_[i] + 1;
    }
    for (const int expert : chosen) used_[expert] = 0;
  }

  Tally& TallyOf(size_t i) {
    return tallies_[Bucket(kAgeEnds, age_[i]) * kRateBuckets + Bucket(kRateEnds, rate_[i])];
  }

  std::vector<float> rate_;    // [layers, experts], average of use
  std::vector<int> age_;       // [layers, experts], visits of the layer since
  std::vector<uint8_t> used_;  // [experts], by the visit in hand
  std::array<Tally, kAgeBuckets * kRateBuckets> tallies_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> NewForwardDistancePolicy(PolicyShape shape) {
  return std::make_unique<ForwardDistancePolicy>(shape);
}

}  // namespace hostler
