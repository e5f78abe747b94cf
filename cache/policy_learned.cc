// A logistic model of "used at the next visit of its layer", trained online,
// over three kinds of evidence: averages of use at several rates, the age of
// the last use, and what tokens like this one chose. The last is attention over
// the recent tokens: their choices so far are compared with this token's, layer
// by layer, and those most alike vote.
//
// A layer's chances are worked out when it was visited (for the next token) and
// again kLookahead layers before it is visited, when more is known of the token.
// Prompts and the tokens of several sequences have no such neighbours: then, and
// until there is a history, a model without votes stands in.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "cache/policy_scored.h"

namespace hostler {
namespace {

constexpr int kHistory = 256;     // tokens
constexpr int kMostChosen = 16;   // experts of one token that are remembered
constexpr int kTrainTokens = 64;  // of a prompt's chunk, the last ones
// After so many visits of a layer each teaches one model in turn: little is left
// to learn, and learning is most of the work.
constexpr int kEagerVisits = 128;
constexpr float kLearningRate = 0.015f;

// Averages of use: rates, and one over all the past up to 1 / kSlowestRate.
constexpr std::array kRates = {.35f, .13f, .05f, .02f};
constexpr int kAverages = kRates.size() + 1;
constexpr float kSlowestRate = 1.0f / 512;
constexpr float kAverageFloor = .003f;

// Ages of the last use in visits: a bucket ends below each of these.
constexpr std::array kAgeEnds = {2, 3, 4, 5, 7, 10, 15, 25, 1 << 20};
constexpr int kAges = kAgeEnds.size() + 1;
constexpr int kNever = 1 << 20;

// Likeness of tokens: an average over the last layers of the share of choices in
// common, and how much more a token votes that is more alike.
struct Likeness {
  float decay;
  float sharpness;
  float floor;  // of a vote's share, before its log-odds
};
constexpr std::array<Likeness, 2> kLikeness = {{{.9f, 7.5f, .02f}, {.7f, 10.0f, .03f}}};
constexpr int kVotes = kLikeness.size();

// Layers before its visit at which a layer's chances are worked out again.
constexpr int kLookahead = 2;

// What a model is for: the next visit seen from kLookahead layers before it, seen
// from the visit before, and seen without votes.
enum Stage { kNear, kTurn, kPlain, kStages };
constexpr int kVotingStages = kPlain;

// Both within 1% over the range they are used for; loops over them vectorize.
inline float FastLog(float x) {
  const auto bits = std::bit_cast<int32_t>(x);
  const float exponent = static_cast<float>((bits >> 23) - 127);
  const float m = std::bit_cast<float>((bits & 0x7fffff) | 0x3f800000) - 1;
  return 0.69314718f * exponent +
         m * (0.99949556f -
              m * (0.49190896f - m * (0.28947478f - m * (0.13606275f - m * 0.03215845f))));
}

inline float FastExp(float x) {
  x = std::min(std::max(x, -30.0f), 30.0f) * 1.44269504f;
  const float shifted = x + 127;
  const int32_t whole = static_cast<int32_t>(shifted);
  const float part = shifted - static_cast<float>(whole);
  const float power = 1 + part * (0.69583282f + part * (0.22606716f + part * 0.07802453f));
  return std::bit_cast<float>(whole << 23) * power;
}

inline float Sigmoid(float x) { return 1 / (1 + FastExp(-x)); }
inline float LogOdds(float x, float floor) { return FastLog((x + floor) / (1 - x + floor)); }

// In lanes, as a sum in order cannot be vectorized.
float Dot(const float* a, const float* b, int n) {
  constexpr int kLanes = 8;
  std::array<float, kLanes> sums = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  float sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (const float lane : sums) sum += lane;
  return sum;
}

struct Weights {
  float bias = 0;
  std::array<float, kAverages> averages = {};
  std::array<float, kAges> ages = {};
  std::array<float, kVotes> votes = {};
};

// Where learning starts: rounded from what it came to on the recorded traces.
constexpr std::array<Weights, kStages> kFirstWeights = {{
    {-.6f,
     {.15f, .12f, .05f, -.2f, -.1f},
     {.15f, -.2f, -.15f, -.3f, -.25f, -.1f, .1f, .1f, 0, -.3f},
     {.5f, .85f}},
    {-.4f,
     {.1f, .15f, .1f, -.15f, -.05f},
     {.15f, -.1f, -.1f, -.25f, -.2f, -.1f, .1f, .15f, 0, -.3f},
     {.4f, .6f}},
    {0, {.15f, .15f, .2f, .2f, .2f}, {.3f, -.1f, -.1f, -.25f, -.25f, -.1f, .1f, .2f, 0, -.1f}, {}},
}};

class LearnedPolicy : public ScoredPolicy {
 public:
  explicit LearnedPolicy(PolicyShape shape);

  std::string_view name() const override { return "learned"; }
  bool Admits(ExpertKey incoming, ExpertKey victim) const override {
    return Across(incoming) >= Across(victim);
  }
  Popularity ExportPopularity() const override;
  void ImportPopularity(const Popularity& popularity) override;

 private:
  using ScoredPolicy::Across;

  void Update(const ExpertRequest& request) override;
  float Across(int layer, float log_odds) const override;

  void Start(const ExpertRequest& request);
  void Remember(const ExpertRequest& request);
  void Compare(int layer, std::span<const int> chosen);
  bool Vote(int stage, int layer, bool next_token);
  void Look(int layer, Stage stage, bool next_token);
  void ClearVotes(int layer);
  void Visit(int layer, std::span<const int> chosen, bool train);
  void Learn(int layer, int stage);
  void Average(int layer);
  void Estimate(int layer, int stage, float* log_odds) const;

  int layers() const { return shape().layers; }
  int experts() const { return shape().experts; }

  float* average(int layer, int k) {
    return averages_.data() + (size_t(layer) * kAverages + k) * experts();
  }
  float* evidence(int layer, int k) {
    return evidence_.data() + (size_t(layer) * kAverages + k) * experts();
  }
  const float* evidence(int layer, int k) const {
    return evidence_.data() + (size_t(layer) * kAverages + k) * experts();
  }
  size_t VotesAt(int layer, int stage, int k) const {
    return ((size_t(layer) * kVotingStages + stage) * kVotes + k) * experts();
  }
  int16_t* Choices(int64_t token, int layer) {
    return history_.data() + (size_t(token % kHistory) * layers() + layer) * kMostChosen;
  }

  bool started_ = false;  // base_ is known
  bool warm_ = false;     // the averages were imported
  int last_layer_ = 0;
  float base_ = 0;  // log-odds of an average expert

  std::vector<float> averages_;  // [layers, kAverages, experts]
  std::vector<float> evidence_;  // the same as log-odds above base_
  std::vector<int> ages_;        // [layers, experts], visits since the last use
  std::vector<uint8_t> age_buckets_;
  std::vector<int> visits_;     // [layers]
  std::vector<float> votes_;    // [layers, kVotingStages, kVotes, experts], log-odds above base_
  std::vector<uint8_t> voted_;  // [layers]: there are votes for the next visit
  std::array<Weights, kStages> weights_, squares_;  // and the sums of squared gradients

  // The last tokens' choices, -1 after the last; token number modulo kHistory.
  std::vector<int16_t> history_;  // [kHistory, layers, kMostChosen]
  int64_t tokens_ = 0;            // remembered so far, the running ones among them
  int64_t first_ = 0;             // the oldest that counts
  // Likeness of the running token and the one `lag` tokens before.
  std::array<std::array<float, kHistory>, kVotes> likeness_ = {};
  std::array<std::array<float, kHistory>, kVotes> voices_ = {};

  std::vector<uint8_t> used_;  // [experts], by the visit in hand
  std::vector<float> work_;    // [experts]
};

LearnedPolicy::LearnedPolicy(PolicyShape shape)
    : ScoredPolicy(shape),
      averages_(size_t(shape.layers) * kAverages * shape.experts),
      evidence_(averages_.size()),
      ages_(size_t(shape.layers) * shape.experts, kNever),
      age_buckets_(ages_.size(), kAges - 1),
      visits_(shape.layers),
      votes_(size_t(shape.layers) * kVotingStages * kVotes * shape.experts),
      voted_(shape.layers),
      history_(size_t(kHistory) * shape.layers * kMostChosen, -1),
      used_(shape.experts),
      work_(shape.experts) {
  for (int stage = 0; stage < kStages; ++stage) {
    weights_[stage] = kFirstWeights[stage];
    Weights& squares = squares_[stage];
    squares.bias = 1;
    squares.averages.fill(1);
    squares.ages.fill(1);
    squares.votes.fill(1);
  }
}

float LearnedPolicy::Across(int layer, float log_odds) const {
  const int until_visit = (layer - running_layer() + layers() - 1) % layers() + 1;
  return Sigmoid(log_odds) / static_cast<float>(until_visit);
}

void LearnedPolicy::Start(const ExpertRequest& request) {
  const float share = std::min(1.0f, static_cast<float>(request.token(0).size()) / experts());
  base_ = LogOdds(share, kAverageFloor);
  started_ = true;
  if (!warm_) std::fill(averages_.begin(), averages_.end(), share);
  for (int layer = 0; layer < layers(); ++layer) {
    Average(layer);
    Estimate(layer, kPlain, scores(layer));
    ScoresChanged(layer);
  }
  last_layer_ = layers();
}

void LearnedPolicy::Update(const ExpertRequest& request) {
  if (!started_) Start(request);
  const int layer = request.layer;
  const int tokens = request.num_tokens();
  if (request.sequences > 1) {
    Visit(layer, request.experts, true);
    first_ = tokens_;  // what follows is no neighbour of what was
  } else {
    Remember(request);
    for (int t = 0; t < tokens; ++t) {
      Visit(layer, request.token(t), t >= tokens - kTrainTokens);
    }
  }
  last_layer_ = layer;
  if (request.sequences > 1 || tokens > 1) {
    for (auto& likeness : likeness_) likeness.fill(0);
    Estimate(layer, kPlain, scores(layer));
    return;
  }
  Compare(layer, request.token(0));
  Look(layer, kTurn, true);
  const int ahead = layer + kLookahead;
  if (kLookahead < layers()) Look(ahead % layers(), kNear, ahead >= layers());
}

void LearnedPolicy::Look(int layer, Stage stage, bool next_token) {
  const bool voted = Vote(stage, layer, next_token);
  voted_[layer] |= voted;
  Estimate(layer, voted ? stage : kPlain, scores(layer));
  ScoresChanged(layer);
}

void LearnedPolicy::Remember(const ExpertRequest& request) {
  const int kept = std::min(request.num_tokens(), kHistory);
  if (request.layer <= last_layer_) {
    for (int t = 0; t < kept; ++t) {
      int16_t* choices = Choices(tokens_ + t, 0);
      std::fill(choices, choices + size_t(layers()) * kMostChosen, int16_t{-1});
    }
    tokens_ += kept;
    first_ = std::max(first_, tokens_ - kHistory);
  }
  for (int t = 0; t < kept; ++t) {
    if (tokens_ - 1 - t < first_) break;
    int16_t* choices = Choices(tokens_ - 1 - t, request.layer);
    const std::span<const int> chosen = request.token(request.num_tokens() - 1 - t);
    std::copy_n(chosen.begin(), std::min<size_t>(chosen.size(), kMostChosen), choices);
  }
}

void LearnedPolicy::Compare(int layer, std::span<const int> chosen) {
  if (chosen.empty()) return;
  const int lags = static_cast<int>(tokens_ - first_);
  for (const int expert : chosen) used_[expert] = 1;
  for (int lag = 1; lag < lags; ++lag) {
    const int16_t* choices = Choices(tokens_ - 1 - lag, layer);
    int common = 0;
    for (int i = 0; i < kMostChosen && choices[i] >= 0; ++i) common += used_[choices[i]];
    const float share = static_cast<float>(common) / static_cast<float>(chosen.size());
    for (int k = 0; k < kVotes; ++k) {
      float& likeness = likeness_[k][lag];
      likeness = kLikeness[k].decay * likeness + (1 - kLikeness[k].decay) * share;
    }
  }
  for (const int expert : chosen) used_[expert] = 0;
  for (int k = 0; k < kVotes; ++k) {
    for (int lag = 1; lag < lags; ++lag) {
      voices_[k][lag] = FastExp(kLikeness[k].sharpness * likeness_[k][lag]);
    }
  }
}

bool LearnedPolicy::Vote(int stage, int layer, bool next_token) {
  const int lags = static_cast<int>(tokens_ - first_);
  float* votes = votes_.data() + VotesAt(layer, stage, 0);
  std::fill(votes, votes + size_t(kVotes) * experts(), 0.0f);
  std::array<float, kVotes> all = {};
  for (int lag = 1; lag < lags; ++lag) {
    const int16_t* choices = Choices(tokens_ - 1 - lag + next_token, layer);
    if (choices[0] < 0) continue;
    for (int k = 0; k < kVotes; ++k) all[k] += voices_[k][lag];
    for (int i = 0; i < kMostChosen && choices[i] >= 0; ++i) {
      for (int k = 0; k < kVotes; ++k) votes[k * experts() + choices[i]] += voices_[k][lag];
    }
  }
  if (all[0] == 0) return false;
  for (int k = 0; k < kVotes; ++k, votes += experts()) {
    const float scale = 1 / all[k];
    const float floor = kLikeness[k].floor;
    for (int e = 0; e < experts(); ++e) votes[e] = LogOdds(votes[e] * scale, floor) - base_;
  }
  return true;
}

// The votes for `layer` were for the visit that is here.
void LearnedPolicy::ClearVotes(int layer) {
  if (voted_[layer] == 0) return;
  voted_[layer] = 0;
  float* votes = votes_.data() + VotesAt(layer, 0, 0);
  std::fill(votes, votes + size_t(kVotingStages) * kVotes * experts(), 0.0f);
}

void LearnedPolicy::Visit(int layer, std::span<const int> chosen, bool train) {
  for (const int expert : chosen) used_[expert] = 1;
  if (train) {
    const int visits = visits_[layer];
    for (int stage = 0; stage < kStages; ++stage) {
      if (visits < kEagerVisits || (visits + layer) % kStages == stage) Learn(layer, stage);
    }
  }
  ClearVotes(layer);
  const int visits = ++visits_[layer];
  for (int k = 0; k < kAverages; ++k) {
    const float rate =
        k < kRates.size() ? kRates[k] : std::max(1 / static_cast<float>(visits + 2), kSlowestRate);
    float* averages = average(layer, k);
    for (int e = 0; e < experts(); ++e) averages[e] += rate * (used_[e] - averages[e]);
  }
  int* ages = ages_.data() + size_t(layer) * experts();
  for (int e = 0; e < experts(); ++e) ages[e] = used_[e] ? 1 : std::min(ages[e] + 1, kNever);
  Average(layer);
  for (const int expert : chosen) used_[expert] = 0;
}

// What the averages and ages of `layer` say.
void LearnedPolicy::Average(int layer) {
  for (int k = 0; k < kAverages; ++k) {
    const float* averages = average(layer, k);
    float* log_odds = evidence(layer, k);
    for (int e = 0; e < experts(); ++e) log_odds[e] = LogOdds(averages[e], kAverageFloor) - base_;
  }
  const int* ages = ages_.data() + size_t(layer) * experts();
  uint8_t* buckets = age_buckets_.data() + size_t(layer) * experts();
  for (int e = 0; e < experts(); ++e) {
    int bucket = 0;
    for (const int end : kAgeEnds) bucket += ages[e] >= end;
    buckets[e] = static_cast<uint8_t>(bucket);
  }
}

void LearnedPolicy::Estimate(int layer, int stage, float* log_odds) const {
  const Weights& weights = weights_[stage];
  const uint8_t* buckets = age_buckets_.data() + size_t(layer) * experts();
  const float bias = weights.bias + base_;
  for (int e = 0; e < experts(); ++e) log_odds[e] = bias + weights.ages[buckets[e]];
  for (int k = 0; k < kAverages; ++k) {
    const float* values = evidence(layer, k);
    for (int e = 0; e < experts(); ++e) log_odds[e] += weights.averages[k] * values[e];
  }
  for (int k = 0; stage != kPlain && k < kVotes; ++k) {
    const float* values = votes_.data() + VotesAt(layer, stage, k);
    for (int e = 0; e < experts(); ++e) log_odds[e] += weights.votes[k] * values[e];
  }
}

// One step of AdaGrad (Duchi et al. 2011) with the experts of a visit as batch.
void LearnedPolicy::Learn(int layer, int stage) {
  Weights gradient;
  Estimate(layer, stage, work_.data());
  for (int e = 0; e < experts(); ++e) work_[e] = Sigmoid(work_[e]) - used_[e];
  const uint8_t* buckets = age_buckets_.data() + size_t(layer) * experts();
  for (int e = 0; e < experts(); ++e) gradient.ages[buckets[e]] += work_[e];
  for (const float age : gradient.ages) gradient.bias += age;
  for (int k = 0; k < kAverages; ++k) {
    gradient.averages[k] = Dot(work_.data(), evidence(layer, k), experts());
  }
  for (int k = 0; stage != kPlain && k < kVotes; ++k) {
    const float* values = votes_.data() + VotesAt(layer, stage, k);
    gradient.votes[k] = Dot(work_.data(), values, experts());
  }
  const auto descend = [](float gradient, float* square, float* weight) {
    *square += gradient * gradient;
    *weight -= kLearningRate * gradient / std::sqrt(*square);
  };
  Weights& squares = squares_[stage];
  Weights& weights = weights_[stage];
  descend(gradient.bias, &squares.bias, &weights.bias);
  for (int k = 0; k < kAverages; ++k) {
    descend(gradient.averages[k], &squares.averages[k], &weights.averages[k]);
  }
  for (int k = 0; k < kAges; ++k) descend(gradient.ages[k], &squares.ages[k], &weights.ages[k]);
  for (int k = 0; k < kVotes; ++k) descend(gradient.votes[k], &squares.votes[k], &weights.votes[k]);
}

Popularity LearnedPolicy::ExportPopularity() const {
  Popularity popularity{layers(), experts(), {}};
  popularity.rate.reserve(size_t(layers()) * experts());
  for (int layer = 0; layer < layers(); ++layer) {
    const float* slowest =
        averages_.data() + (size_t(layer) * kAverages + kAverages - 1) * experts();
    popularity.rate.insert(popularity.rate.end(), slowest, slowest + experts());
  }
  return popularity;
}

void LearnedPolicy::ImportPopularity(const Popularity& popularity) {
  if (popularity.layers != layers() || popularity.experts != experts() ||
      popularity.rate.size() != size_t(layers()) * experts()) {
    return;
  }
  warm_ = true;
  for (int layer = 0; layer < layers(); ++layer) {
    const float* rate = popularity.rate.data() + size_t(layer) * experts();
    for (int k = 0; k < kAverages; ++k) std::copy(rate, rate + experts(), average(layer, k));
    visits_[layer] = static_cast<int>(1 / kSlowestRate);
  }
}

}  // namespace

std::unique_ptr<EvictionPolicy> NewLearnedPolicy(PolicyShape shape) {
  return std::make_unique<LearnedPolicy>(shape);
}

}  // namespace hostler
