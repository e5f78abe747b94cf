#include <algorithm>

#include "cache/policy_scored.h"

namespace hostler {
namespace {

class EmaPolicy : public ScoredPolicy {
 public:
  EmaPolicy(PolicyShape shape, double rate) : ScoredPolicy(shape), rate_(rate) {}

  std::string_view name() const override { return "ema"; }

  Popularity ExportPopularity() const override {
    Popularity popularity{shape().layers, shape().experts, {}};
    popularity.rate.assign(scores(0), scores(0) + size_t(shape().layers) * shape().experts);
    return popularity;
  }

  void ImportPopularity(const Popularity& popularity) override {
    if (popularity.layers != shape().layers || popularity.experts != shape().experts ||
        popularity.rate.size() != size_t(shape().layers) * shape().experts) {
      return;
    }
    std::copy(popularity.rate.begin(), popularity.rate.end(), scores(0));
    for (int layer = 0; layer < shape().layers; ++layer) ScoresChanged(layer);
  }

 private:
  void Update(const ExpertRequest& request) override {
    // The tokens of several sequences pass at once: together they count as
    // much time as one.
    const int tokens = request.num_tokens();
    const double rate = request.sequences > 1 ? rate_ / tokens : rate_;
    float* score = scores(request.layer);
    for (int t = 0; t < tokens; ++t) {
      for (int expert = 0; expert < shape().experts; ++expert) score[expert] *= 1 - rate;
      for (const int expert : request.token(t)) score[expert] += rate;
    }
  }

  const double rate_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> NewEmaPolicy(PolicyShape shape, double rate) {
  return std::make_unique<EmaPolicy>(shape, rate);
}

}  // namespace hostler
