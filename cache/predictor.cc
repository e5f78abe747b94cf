#include "cache/predictor.h"

#include <fmt/format.h>

#include <algorithm>

namespace hostler {
namespace {

// Weight of an expert's overall frequency among its transitions, in uses.
constexpr float kPrior = 2;
constexpr float kLeastChance = 0.02f;

void Sort(std::vector<ExpertGuess>* guesses, size_t first) {
  std::sort(guesses->begin() + first, guesses->end(),
            [](const ExpertGuess& a, const ExpertGuess& b) {
              return a.chance != b.chance ? a.chance > b.chance : a.key.expert < b.key.expert;
            });
}

// For the layers 1..kReach ahead: n(e → f), how often f was chosen there by a
// token that chose e here. The chance of f is the mean over the token's
// experts of (n(e → f) + kPrior · share(f)) / (n(e) + kPrior).
class TransitionPredictor : public ExpertPredictor {
 public:
  explicit TransitionPredictor(PolicyShape shape)
      : shape_(shape),
        reach_(std::min(kReach, shape.layers)),
        pairs_(size_t(shape.layers) * reach_ * shape.experts * shape.experts),
        uses_(size_t(shape.layers) * shape.experts),
        visits_(shape.layers),
        chance_(shape.experts),
        recent_(shape.layers) {}

  std::string_view name() const override { return "transitions"; }

  void OnRequest(const ExpertRequest& request) override {
    layer_ = request.layer;
    // Tokens are matched by their place in the step, so only among layers of
    // one step, and to the next step's only where one token follows another.
    for (int back = 1; back <= reach_; ++back) {
      const int from = (layer_ - back + shape_.layers) % shape_.layers;
      const Choices& past = recent_[from];
      if (past.tokens() != request.num_tokens() || past.tokens() == 0) continue;
      if (from >= layer_ && past.tokens() > 1) continue;
      for (int t = 0; t < past.tokens(); ++t) Count(from, back, past.token(t), request.token(t));
    }
    for (int t = 0; t < request.num_tokens(); ++t) {
      for (const int e : request.token(t)) uses_[Index(layer_, e)] += 1;
      visits_[layer_] += 1;
    }
    recent_[layer_].Assign(request);
  }

  void Predict(int ahead, std::vector<ExpertGuess>* guesses) override {
    if (ahead < 1 || ahead > reach_ || layer_ < 0) return;
    const int target = (layer_ + ahead) % shape_.layers;
    const Choices& now = recent_[layer_];
    const size_t first = guesses->size();
    for (int t = 0; t < now.tokens(); ++t) Add(target, ahead, now.token(t), t == 0);
    for (int f = 0; f < shape_.experts; ++f) {
      const float chance = std::min(chance_[f], 1.0f);
      if (chance >= kLeastChance) guesses->push_back({{target, f}, chance});
    }
    Sort(guesses, first);
  }

 private:
  static constexpr int kReach = 2;  // layers

  // A request's, kept after it.
  class Choices {
   public:
    void Assign(const ExpertRequest& request) {
      chosen_.clear();
      offsets_.assign(1, 0);
      for (int t = 0; t < request.num_tokens(); ++t) {
        const std::span<const int> token = request.token(t);
        chosen_.insert(chosen_.end(), token.begin(), token.end());
        offsets_.push_back(static_cast<int>(chosen_.size()));
      }
    }
    int tokens() const { return std::max(static_cast<int>(offsets_.size()) - 1, 0); }
    std::span<const int> token(int t) const {
      return std::span(chosen_).subspan(offsets_[t], offsets_[t + 1] - offsets_[t]);
    }

   private:
    std::vector<int> chosen_, offsets_;
  };

  size_t Index(int layer, int expert) const { return size_t(layer) * shape_.experts + expert; }
  float* Row(int from, int ahead, int expert) {
    const size_t row = (size_t(from) * reach_ + ahead - 1) * shape_.experts + expert;
    return pairs_.data() + row * shape_.experts;
  }

  void Count(int from, int ahead, std::span<const int> past, std::span<const int> now) {
    for (const int e : past) {
      float* row = Row(from, ahead, e);
      for (const int f : now) row[f] += 1;
    }
  }

  // Chances that one token adds: of several tokens any may choose an expert.
  void Add(int target, int ahead, std::span<const int> chosen, bool first) {
    if (first) std::fill(chance_.begin(), chance_.end(), 0.0f);
    if (chosen.empty()) return;
    const float visits = std::max(visits_[target], 1.0f);
    for (const int e : chosen) {
      const float* row = Row(layer_, ahead, e);
      const float scale = 1 / ((uses_[Index(layer_, e)] + kPrior) * chosen.size());
      for (int f = 0; f < shape_.experts; ++f) {
        chance_[f] += (row[f] + kPrior * uses_[Index(target, f)] / visits) * scale;
      }
    }
  }

  const PolicyShape shape_;
  const int reach_;
  std::vector<float> pairs_;   // [layers, reach, experts, experts]
  std::vector<float> uses_;    // [layers, experts]
  std::vector<float> visits_;  // [layers], tokens
  std::vector<float> chance_;  // [experts]
  std::vector<Choices> recent_;
  int layer_ = -1;
};

class PreviousTokenPredictor : public ExpertPredictor {
 public:
  explicit PreviousTokenPredictor(PolicyShape shape) : last_(shape.layers) {}
  std::string_view name() const override { return "previous"; }
  void OnRequest(const ExpertRequest& request) override {
    layer_ = request.layer;
    last_[layer_].assign(request.experts.begin(), request.experts.end());
  }
  void Predict(int ahead, std::vector<ExpertGuess>* guesses) override {
    if (layer_ < 0 || ahead < 1) return;
    const int target = static_cast<int>((layer_ + size_t(ahead)) % last_.size());
    for (const int e : last_[target]) guesses->push_back({{target, e}, kChance});
  }

 private:
  static constexpr float kChance = 0.4f;  // what the recorded traces repeat
  std::vector<std::vector<int>> last_;
  int layer_ = -1;
};

}  // namespace

std::unique_ptr<ExpertPredictor> NewTransitionPredictor(PolicyShape shape) {
  return std::make_unique<TransitionPredictor>(shape);
}

std::unique_ptr<ExpertPredictor> NewPreviousTokenPredictor(PolicyShape shape) {
  return std::make_unique<PreviousTokenPredictor>(shape);
}

absl::StatusOr<std::unique_ptr<ExpertPredictor>> NewExpertPredictor(std::string_view name,
                                                                    PolicyShape shape) {
  if (name == "transitions") return NewTransitionPredictor(shape);
  if (name == "previous") return NewPreviousTokenPredictor(shape);
  return absl::InvalidArgumentError(
      fmt::format("no predictor \"{}\"; there are transitions, previous", name));
}

}  // namespace hostler
