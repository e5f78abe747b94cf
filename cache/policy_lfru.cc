#include <algorithm>

#include "cache/policy_scored.h"

namespace hostler {
namespace {

// Counts lose half their weight so often that an old favourite can go.
constexpr int kHalvingTokens = 256;

class LfruPolicy : public ScoredPolicy {
 public:
  explicit LfruPolicy(PolicyShape shape)
      : ScoredPolicy(shape),
        uses_(size_t(shape.layers) * shape.experts),
        last_use_(uses_.size()),
        token_of_layer_(shape.layers) {}

  std::string_view name() const override { return "lfru"; }

  Popularity ExportPopularity() const override {
    Popularity popularity{shape().layers, shape().experts, uses_};
    const float tokens = std::max(token_since_halving_ + weight_of_past_, 1.0f);
    for (float& rate : popularity.rate) rate /= tokens;
    return popularity;
  }

  void ImportPopularity(const Popularity& popularity) override {
    if (popularity.layers != shape().layers || popularity.experts != shape().experts ||
        popularity.rate.size() != uses_.size()) {
      return;
    }
    weight_of_past_ = kHalvingTokens;
    for (size_t i = 0; i < uses_.size(); ++i) uses_[i] = popularity.rate[i] * kHalvingTokens;
  }

 private:
  void Update(const ExpertRequest& request) override {
    const size_t first = size_t(request.layer) * shape().experts;
    int& layer_token = token_of_layer_[request.layer];
    ++layer_token;
    for (const int expert : request.experts) last_use_[first + expert] = layer_token;
    for (int t = 0; t < request.num_tokens(); ++t)
      for (const int expert : request.token(t)) uses_[first + expert] += 1;
    if (layer_token <= token_) {
      Score(request.layer);
      return;
    }
    Advance(layer_token);
  }

  void Advance(int token) {
    token_since_halving_ += static_cast<float>(token - token_);
    token_ = token;
    if (token_since_halving_ >= kHalvingTokens) {
      weight_of_past_ = (weight_of_past_ + token_since_halving_) / 2;
      token_since_halving_ = 0;
      for (float& uses : uses_) uses /= 2;
    }
    for (int layer = 0; layer < shape().layers; ++layer) {
      Score(layer);
      ScoresChanged(layer);
    }
  }

  void Score(int layer) {
    const size_t first = size_t(layer) * shape().experts;
    float* score = scores(layer);
    for (int expert = 0; expert < shape().experts; ++expert) {
      score[expert] =
          uses_[first + expert] / static_cast<float>(token_ - last_use_[first + expert] + 1);
    }
  }

  std::vector<float> uses_;          // [layers, experts]
  std::vector<int> last_use_;        // [layers, experts], token
  std::vector<int> token_of_layer_;  // [layers], tokens that passed it
  int token_ = 0;                    // the most of those
  float token_since_halving_ = 0;
  float weight_of_past_ = 0;  // tokens that the halved counts stand for
};

}  // namespace

std::unique_ptr<EvictionPolicy> NewLfruPolicy(PolicyShape shape) {
  return std::make_unique<LfruPolicy>(shape);
}

}  // namespace hostler
