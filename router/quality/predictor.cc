#include "router/quality/predictor.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/quality/default_router.h"
#include "router/quality/linear.h"
#include "router/quality/prompt_features.h"

namespace hostler {
namespace {

constexpr float kMaxLogLength = 14;  // a million tokens

// Into [0, 1] without making two different estimates equal: who gains how much by
// which model must stay to be seen where all are sure.
double SoftClamp(double x) {
  constexpr double kEdge = 0.1;
  if (x < kEdge) return kEdge * std::exp((x - kEdge) / kEdge);
  if (x > 1 - kEdge) return 1 - kEdge * std::exp((1 - kEdge - x) / kEdge);
  return x;
}

// Reused from call to call of a thread.
struct Scratch {
  std::vector<Feature> features;
  std::vector<float> outputs;     // topics, then heads
  std::vector<float> topics;      // chances, of a group
  std::vector<float> directions;  // of a group
  std::vector<float> neighbours;  // quality of each of a group's models
  std::vector<double> weights;    // of each model: of the groups that know it
  std::vector<double> token_weights;
};

// Without fused multiply-adds: the same bits on every CPU. (The thread sanitizer would be
// called by what chooses the clone, before it has started.)
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("avx2", "default")))
#endif
void MultiplyPacked(const RouterModel& model, std::span<const Feature> x, std::span<float> out) {
  std::fill(out.begin(), out.end(), 0.0f);
  const size_t outputs = out.size();
  float* sums = out.data();
  for (const Feature& feature : x) {
    const float scale = feature.value * model.row_scale[feature.index];
    if (scale == 0) continue;
    const int8_t* row = model.weights.data() + feature.index * outputs;
    for (size_t k = 0; k < outputs; ++k) sums[k] += scale * row[k];
  }
}

}  // namespace

absl::StatusOr<std::shared_ptr<const QualityPredictor>> QualityPredictor::Load(
    const std::string& path) {
  if (path == kDefaultRouter) {
    HOSTLER_ASSIGN_OR_RETURN(RouterModel model, ParseRouterModel(DefaultRouterBytes()));
    return std::make_shared<const QualityPredictor>(std::move(model));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(fmt::format("cannot open the router file {}", path));
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  absl::StatusOr<RouterModel> model = ParseRouterModel(bytes);
  if (!model.ok()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {}", path, std::string(model.status().message())));
  }
  return std::make_shared<const QualityPredictor>(*std::move(model));
}

QualityPredictor::QualityPredictor(RouterModel model) : model_(std::move(model)) {
  for (const RouterGroup& group : model_.groups) {
    std::vector<int>& places = places_.emplace_back();
    for (const std::string& name : group.models) {
      const auto found = std::find(models_.begin(), models_.end(), name);
      places.push_back(static_cast<int>(found - models_.begin()));
      if (found == models_.end()) models_.push_back(name);
    }
  }
}

void QualityPredictor::Predict(const RoutePrompt& prompt, std::span<QualityEstimate> out) const {
  static thread_local Scratch scratch;
  HashPrompt(prompt, model_.hash_bits, &scratch.features);
  WeighFeatures(model_.idf, &scratch.features);
  scratch.outputs.resize(model_.outputs());
  MultiplyPacked(model_, scratch.features, scratch.outputs);
  const std::span<float> logits(scratch.outputs.data(), model_.topics);
  for (int k = 0; k < model_.topics; ++k) logits[k] += model_.bias[k];
  const float most = *std::max_element(logits.begin(), logits.end());

  std::fill(out.begin(), out.end(), QualityEstimate{});
  scratch.weights.assign(out.size(), 0);
  scratch.token_weights.assign(out.size(), 0);
  for (size_t g = 0; g < model_.groups.size(); ++g) {
    const RouterGroup& group = model_.groups[g];
    const size_t directions = group.directions(), count = group.models.size();
    double weight = model_.groups.size() > 1 ? 1e-6 : 1;
    scratch.topics.clear();
    for (const int32_t topic : group.topics) {
      if (model_.groups.size() > 1) weight += std::exp(logits[topic] - most);
      scratch.topics.push_back(group.sharpness * logits[topic]);
    }
    Softmax(scratch.topics);
    const float* heads = scratch.outputs.data() + model_.topics + group.first_head;
    scratch.directions.resize(directions);
    for (size_t c = 0; c < directions; ++c) scratch.directions[c] = group.head[c] * heads[c];
    for (size_t k = 0; k < scratch.topics.size(); ++k) {
      const float* theta = group.theta.data() + k * directions;
      for (size_t c = 0; c < directions; ++c) scratch.directions[c] += scratch.topics[k] * theta[c];
    }
    scratch.neighbours.resize(count);
    const bool near = group.neighbours.rows() > 0 &&
                      prompt.embedding.size() == static_cast<size_t>(model_.embedding_size) &&
                      NeighbourMean(group.neighbours, prompt.embedding, scratch.neighbours);
    for (size_t m = 0; m < count; ++m) {
      double estimate = group.mean[m];
      for (size_t c = 0; c < directions; ++c) {
        estimate += static_cast<double>(scratch.directions[c]) * group.basis[m * directions + c];
      }
      if (near) estimate += group.neighbours.weight * (scratch.neighbours[m] - estimate);
      QualityEstimate& own = out[places_[g][m]];
      own.quality += weight * SoftClamp(estimate);
      scratch.weights[places_[g][m]] += weight;
      if (group.length.empty()) continue;
      const double log =
          std::clamp(group.length[2 * m] + heads[directions + m], 0.0f, kMaxLogLength);
      own.output_tokens += weight * std::max(1.0, group.length[2 * m + 1] * std::exp(log));
      scratch.token_weights[places_[g][m]] += weight;
    }
  }
  for (size_t m = 0; m < out.size(); ++m) {
    out[m].quality /= scratch.weights[m];
    if (scratch.token_weights[m] > 0) out[m].output_tokens /= scratch.token_weights[m];
  }
}

}  // namespace hostler
