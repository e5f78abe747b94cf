#include "router/quality/predictor.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/quality/linear.h"
#include "router/quality/prompt_features.h"

namespace hostler {
namespace {

// Reused from call to call of a thread.
struct Scratch {
  std::vector<Feature> features;
  std::vector<float> outputs;     // topics, then residual directions
  std::vector<float> directions;  // of a group
  std::vector<double> weights;    // of each model: of the groups that know it
  std::vector<double> token_weights;
};

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
  WeighFeatures(prompt, model_.hash_bits, model_.embedding_size, model_.idf, &scratch.features);
  scratch.outputs.resize(model_.outputs());
  MultiplyPacked(model_, scratch.features, scratch.outputs);
  const std::span<float> topics(scratch.outputs.data(), model_.topics);
  for (int k = 0; k < model_.topics; ++k) topics[k] += model_.bias[k];
  Softmax(topics);

  std::fill(out.begin(), out.end(), QualityEstimate{});
  scratch.weights.assign(out.size(), 0);
  scratch.token_weights.assign(out.size(), 0);
  for (size_t g = 0; g < model_.groups.size(); ++g) {
    const RouterGroup& group = model_.groups[g];
    const size_t directions = group.directions();
    double weight = 1e-6;
    for (const int32_t topic : group.topics) weight += topics[topic];
    scratch.directions.assign(directions, 0);
    for (int k = 0; k < model_.topics; ++k) {
      const float* theta = group.theta.data() + k * directions;
      for (size_t c = 0; c < directions; ++c) scratch.directions[c] += topics[k] * theta[c];
    }
    const float* residuals = scratch.outputs.data() + model_.topics + group.first_residual;
    for (size_t c = 0; c < directions; ++c) {
      scratch.directions[c] += group.residual[c] * residuals[c];
    }
    const size_t count = group.models.size();
    for (size_t m = 0; m < count; ++m) {
      double estimate = 0;
      for (size_t c = 0; c < directions; ++c) {
        estimate += static_cast<double>(scratch.directions[c]) * group.basis[m * directions + c];
      }
      estimate = group.scale[2 * m] + group.scale[2 * m + 1] * estimate;
      QualityEstimate& own = out[places_[g][m]];
      own.quality += weight * std::clamp(estimate, 0.0, 1.0);
      scratch.weights[places_[g][m]] += weight;
      if (group.tokens.empty()) continue;
      double tokens = 0;
      for (int k = 0; k < model_.topics; ++k) {
        tokens += static_cast<double>(topics[k]) * group.tokens[k * count + m];
      }
      own.output_tokens += weight * std::max(tokens, 1.0);
      scratch.token_weights[places_[g][m]] += weight;
    }
  }
  for (size_t m = 0; m < out.size(); ++m) {
    out[m].quality /= scratch.weights[m];
    if (scratch.token_weights[m] > 0) out[m].output_tokens /= scratch.token_weights[m];
  }
}

}  // namespace hostler
