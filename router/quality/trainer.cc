#include "router/quality/trainer.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/base/checksum.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/quality/linear.h"

namespace hostler {
namespace {

constexpr int kRidgeSteps = 25;
constexpr size_t kLeastRows = 20;

// A set's rows among all examples, and what their labels are in its basis.
struct Group {
  const RoutingSet* set = nullptr;
  size_t first = 0;  // example of the set's first row
  int32_t first_residual = 0;
  std::vector<int32_t> topics = {};
  std::vector<float> mean = {};  // [M]
  Matrix basis = {};             // [M, C]
  Matrix targets = {};           // [rows, C]

  size_t rows() const { return set->rows.size(); }
};

// What a fit of all examples, or of those of other folds, gives.
struct Fit {
  SoftmaxModel topics;
  std::vector<Matrix> heads;  // of each group: [features, C]
};

class Trainer {
 public:
  Trainer(std::span<const RoutingSet> sets, const TrainOptions& options)
      : sets_(sets), options_(options) {}

  absl::StatusOr<RouterModel> Run() {
    HOSTLER_RETURN_IF_ERROR(Gather());
    Weigh();
    for (const RoutingSet& set : sets_) AddGroup(set);
    if (static_cast<int>(topic_names_.size()) + residuals_ > kMaxOutputs) {
      return absl::InvalidArgumentError(
          fmt::format("{} topics and {} directions; at most {} together", topic_names_.size(),
                      residuals_, kMaxOutputs));
    }
    Matrix topics(x_.size(), topic_names_.size()), heads(x_.size(), options_.max_directions);
    for (int fold = 0; fold < options_.folds; ++fold) {
      Say(fmt::format("fold {} of {}", fold + 1, options_.folds));
      const Fit fit = FitExamples(fold);
      for (size_t i = 0; i < x_.size(); ++i) {
        if (fold_[i] == fold) PredictExample(fit, i, &topics, &heads);
      }
    }
    Say("all rows");
    RouterModel model = Start(FitExamples(-1));
    for (const Group& group : groups_) model.groups.push_back(Stack(group, topics, heads));
    HOSTLER_RETURN_IF_ERROR(CheckRouterModel(model));
    return model;
  }

 private:
  void Say(const std::string& text) const {
    if (options_.progress) options_.progress(text);
  }

  // Examples, their topics and folds.
  absl::Status Gather() {
    std::map<std::string, int32_t> topics;
    embedding_size_ =
        sets_.empty() || sets_[0].rows.empty() ? 0 : sets_[0].rows[0].embedding.size();
    for (const RoutingSet& set : sets_) {
      if (set.rows.size() < kLeastRows) {
        return absl::InvalidArgumentError(fmt::format("{} has {} rows; at least {} are needed",
                                                      set.name, set.rows.size(), kLeastRows));
      }
      if (set.models.size() > kMaxGroupModels) {
        return absl::InvalidArgumentError(fmt::format("{} has {} models; at most {}", set.name,
                                                      set.models.size(), kMaxGroupModels));
      }
      for (const RoutingRow& row : set.rows) {
        if (row.embedding.size() != embedding_size_ || embedding_size_ > kMaxEmbedding) {
          return absl::InvalidArgumentError(
              fmt::format("{}: row {} has an embedding of {} numbers, others have {} (at most {})",
                          set.name, row.id, row.embedding.size(), embedding_size_, kMaxEmbedding));
        }
        const auto name = set.name + '\n' + row.subject;
        topic_.push_back(topics.emplace(name, topics.size()).first->second);
        // The same prompt is never in two folds.
        fold_.push_back(static_cast<int>(Checksum(row.prompt) % options_.folds));
        RoutePrompt prompt{.text = row.prompt, .embedding = row.embedding};
        prompts_.push_back(prompt);
        x_.emplace_back();
        HashPrompt(prompt, options_.hash_bits, &x_.back());
      }
    }
    topic_names_.resize(topics.size());
    for (const auto& [name, index] : topics) topic_names_[index] = name;
    return absl::OkStatus();
  }

  void Weigh() {
    const size_t hashed = size_t{1} << options_.hash_bits;
    std::vector<int> documents(hashed);
    for (const auto& row : x_) {
      for (const Feature& feature : row) ++documents[feature.index];
    }
    idf_.assign(hashed + embedding_size_, 1.0f);
    for (size_t j = 0; j < hashed; ++j) {
      // Seen once: it tells nothing of other prompts.
      idf_[j] = documents[j] < 2 ? 0 : std::log((1.0 + x_.size()) / (1.0 + documents[j])) + 1;
    }
    for (size_t i = 0; i < x_.size(); ++i) {
      WeighFeatures(prompts_[i], options_.hash_bits, embedding_size_, idf_, &x_[i]);
    }
  }

  void AddGroup(const RoutingSet& set) {
    Group group{.set = &set};
    group.first = groups_.empty() ? 0 : groups_.back().first + groups_.back().rows();
    group.first_residual = residuals_;
    const int64_t models = set.models.size(), rows = set.rows.size();
    group.mean.assign(models, 0);
    for (const RoutingRow& row : set.rows) {
      for (int64_t m = 0; m < models; ++m) group.mean[m] += row.quality[m] / rows;
    }
    std::vector<bool> own(topic_names_.size());
    for (int64_t i = 0; i < rows; ++i) own[topic_[group.first + i]] = true;
    for (size_t k = 0; k < own.size(); ++k) {
      if (own[k]) group.topics.push_back(k);
    }
    group.basis = Basis(set, group.mean);
    const int64_t directions = group.basis.cols;
    residuals_ += directions;
    group.targets = Matrix(rows, directions);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t m = 0; m < models; ++m) {
        const float value = set.rows[i].quality[m] - group.mean[m];
        for (int64_t c = 0; c < directions; ++c) {
          group.targets.row(i)[c] += value * group.basis.row(m)[c];
        }
      }
    }
    groups_.push_back(std::move(group));
  }

  // Two models: sum and difference. More: the principal directions.
  Matrix Basis(const RoutingSet& set, const std::vector<float>& mean) const {
    const int64_t models = set.models.size();
    if (models == 2) {
      Matrix basis(2, 2);
      const float half = std::sqrt(0.5f);
      basis.values = {half, half, half, -half};
      return basis;
    }
    Matrix covariance(models, models);
    for (const RoutingRow& row : set.rows) {
      for (int64_t a = 0; a < models; ++a) {
        for (int64_t b = 0; b < models; ++b) {
          covariance.row(a)[b] += (row.quality[a] - mean[a]) * (row.quality[b] - mean[b]);
        }
      }
    }
    const Matrix all = Eigenvectors(std::move(covariance));
    Matrix basis(models, std::min<int64_t>(models, options_.max_directions));
    for (int64_t m = 0; m < models; ++m) {
      std::copy_n(all.row(m), basis.cols, basis.row(m));
    }
    return basis;
  }

  // fold < 0: all examples; else those of the other folds.
  Fit FitExamples(int fold) const {
    FeatureRows rows;
    std::vector<int32_t> labels;
    for (size_t i = 0; i < x_.size(); ++i) {
      if (fold_[i] == fold) continue;
      rows.emplace_back(x_[i]);
      labels.push_back(topic_[i]);
    }
    Fit fit;
    fit.topics =
        FitSoftmax(rows, labels, topic_names_.size(), idf_.size(), {.epochs = options_.epochs});
    for (const Group& group : groups_) fit.heads.push_back(FitHeads(group, fold));
    return fit;
  }

  Matrix FitHeads(const Group& group, int fold) const {
    const int64_t directions = group.basis.cols;
    Matrix sums(topic_names_.size(), directions);
    std::vector<float> counts(topic_names_.size(), options_.topic_prior);
    FeatureRows rows;
    std::vector<size_t> used;
    for (size_t i = 0; i < group.rows(); ++i) {
      if (fold_[group.first + i] == fold) continue;
      const int32_t topic = topic_[group.first + i];
      rows.emplace_back(x_[group.first + i]);
      used.push_back(i);
      counts[topic] += 1;
      for (int64_t c = 0; c < directions; ++c) sums.row(topic)[c] += group.targets.row(i)[c];
    }
    Matrix targets(used.size(), directions);
    for (size_t n = 0; n < used.size(); ++n) {
      const int32_t topic = topic_[group.first + used[n]];
      for (int64_t c = 0; c < directions; ++c) {
        targets.row(n)[c] = options_.smoothing * sums.row(topic)[c] / counts[topic] +
                            (1 - options_.smoothing) * group.targets.row(used[n])[c];
      }
    }
    return FitRidge(rows, targets, idf_.size(), options_.penalty, kRidgeSteps);
  }

  void PredictExample(const Fit& fit, size_t i, Matrix* topics, Matrix* heads) const {
    fit.topics.Predict(x_[i], {topics->row(i), static_cast<size_t>(topics->cols)});
    for (size_t g = 0; g < groups_.size(); ++g) {
      const Group& group = groups_[g];
      if (i < group.first || i >= group.first + group.rows()) continue;
      Multiply(x_[i], fit.heads[g], {heads->row(i), static_cast<size_t>(group.basis.cols)});
    }
  }

  // Everything but the groups; weights as 8-bit integers with a scale a row.
  RouterModel Start(const Fit& fit) const {
    RouterModel model{.hash_bits = options_.hash_bits,
                      .embedding_size = static_cast<int32_t>(embedding_size_),
                      .topics = static_cast<int32_t>(topic_names_.size()),
                      .residuals = residuals_};
    model.idf = idf_;
    model.bias = fit.topics.bias;
    const int outputs = model.outputs();
    model.row_scale.resize(idf_.size());
    model.weights.resize(idf_.size() * outputs);
    std::vector<float> row(outputs);
    // Topic logits are about ten times as large as the heads' directions.
    for (size_t j = 0; j < idf_.size(); ++j) {
      std::copy_n(fit.topics.weights.row(j), model.topics, row.data());
      for (size_t g = 0; g < groups_.size(); ++g) {
        const Matrix& heads = fit.heads[g];
        for (int64_t c = 0; c < heads.cols; ++c) {
          row[model.topics + groups_[g].first_residual + c] = heads.row(j)[c] * kResidualScale;
        }
      }
      float most = 0;
      for (const float value : row) most = std::max(most, std::abs(value));
      if (most == 0) continue;
      model.row_scale[j] = most / 127;
      for (int k = 0; k < outputs; ++k) {
        model.weights[j * outputs + k] = static_cast<int8_t>(std::lround(row[k] / most * 127));
      }
    }
    return model;
  }

  // Weighs topic means and heads by how well they foretell rows that they were
  // not fitted to.
  RouterGroup Stack(const Group& group, const Matrix& topics, const Matrix& heads) const {
    const int64_t rows = group.rows(), directions = group.basis.cols, models = group.mean.size();
    Matrix p(rows, topics.cols);
    for (int64_t i = 0; i < rows; ++i) {
      std::copy_n(topics.row(group.first + i), topics.cols, p.row(i));
    }
    RouterGroup out{.name = group.set->name,
                    .models = group.set->models,
                    .topics = group.topics,
                    .first_residual = group.first_residual,
                    .basis = group.basis.values};
    Matrix theta = FitDenseRidge(p, group.targets, options_.topic_prior);
    // The mix is found on mixtures of the other folds.
    Matrix mixture(rows, directions);
    for (int fold = 0; fold < options_.folds; ++fold) MixFold(group, p, fold, &mixture);
    Matrix estimate(rows, models);
    for (int64_t c = 0; c < directions; ++c) {
      Matrix pair(rows, 2), target(rows, 1);
      for (int64_t i = 0; i < rows; ++i) {
        pair.row(i)[0] = mixture.row(i)[c];
        pair.row(i)[1] = heads.row(group.first + i)[c];
        target.row(i)[0] = group.targets.row(i)[c];
      }
      const Matrix mix = FitMix(pair, target);
      for (int64_t k = 0; k < theta.rows; ++k) theta.row(k)[c] *= mix.values[0];
      out.residual.push_back(mix.values[1] / kResidualScale);
      for (int64_t i = 0; i < rows; ++i) {
        const float value = mix.values[0] * pair.row(i)[0] + mix.values[1] * pair.row(i)[1];
        for (int64_t m = 0; m < models; ++m) {
          estimate.row(i)[m] += value * group.basis.row(m)[c];
        }
      }
    }
    out.theta = theta.values;
    Calibrate(group, estimate, &out);
    if (!group.set->rows[0].tokens.empty()) out.tokens = FitTokens(group, p);
    return out;
  }

  void MixFold(const Group& group, const Matrix& p, int fold, Matrix* mixture) const {
    std::vector<int64_t> used;
    for (size_t i = 0; i < group.rows(); ++i) {
      if (fold_[group.first + i] != fold) used.push_back(i);
    }
    Matrix x(used.size(), p.cols), y(used.size(), group.targets.cols);
    for (size_t n = 0; n < used.size(); ++n) {
      std::copy_n(p.row(used[n]), p.cols, x.row(n));
      std::copy_n(group.targets.row(used[n]), y.cols, y.row(n));
    }
    const Matrix theta = FitDenseRidge(x, y, options_.topic_prior);
    for (size_t i = 0; i < group.rows(); ++i) {
      if (fold_[group.first + i] != fold) continue;
      for (int64_t c = 0; c < y.cols; ++c) {
        float sum = 0;
        for (int64_t k = 0; k < p.cols; ++k) sum += p.row(i)[k] * theta.row(k)[c];
        mixture->row(i)[c] = sum;
      }
    }
  }

  // Least squares with weights of at least 0.
  static Matrix FitMix(const Matrix& pair, const Matrix& target) {
    const float tiny = 1e-3f;
    Matrix mix = FitDenseRidge(pair, target, tiny);
    for (const int alone : {0, 1}) {
      if (mix.values[1 - alone] >= 0) continue;
      Matrix one(pair.rows, 1);
      for (int64_t i = 0; i < pair.rows; ++i) one.row(i)[0] = pair.row(i)[alone];
      mix.values[1 - alone] = 0;
      mix.values[alone] = std::max(0.0f, FitDenseRidge(one, target, tiny).values[0]);
    }
    return mix;
  }

  // A line for each model, so that estimates are true on average.
  void Calibrate(const Group& group, const Matrix& estimate, RouterGroup* out) const {
    const int64_t rows = group.rows();
    for (size_t m = 0; m < group.mean.size(); ++m) {
      Matrix x(rows, 1), y(rows, 1);
      for (int64_t i = 0; i < rows; ++i) {
        x.row(i)[0] = estimate.row(i)[m];
        y.row(i)[0] = group.set->rows[i].quality[m] - group.mean[m];
      }
      const float slope = FitDenseRidge(x, y, 1.0f).values[0];
      const float kept = std::clamp(slope, 0.5f, 1.2f);
      out->scale.push_back(group.mean[m]);
      out->scale.push_back(kept);
    }
  }

  std::vector<float> FitTokens(const Group& group, const Matrix& p) const {
    const int64_t rows = group.rows(), models = group.mean.size();
    Matrix y(rows, models);
    std::vector<float> mean(models);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t m = 0; m < models; ++m) mean[m] += group.set->rows[i].tokens[m] / rows;
    }
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t m = 0; m < models; ++m) y.row(i)[m] = group.set->rows[i].tokens[m] - mean[m];
    }
    Matrix theta = FitDenseRidge(p, y, options_.topic_prior);
    for (int64_t k = 0; k < theta.rows; ++k) {
      for (int64_t m = 0; m < models; ++m) theta.row(k)[m] += mean[m];
    }
    return theta.values;
  }

  static constexpr float kResidualScale = 8;  // of the heads among the 8-bit weights

  const std::span<const RoutingSet> sets_;
  const TrainOptions& options_;
  size_t embedding_size_ = 0;
  std::vector<std::string> topic_names_;
  std::vector<RoutePrompt> prompts_;
  std::vector<std::vector<Feature>> x_;
  std::vector<int32_t> topic_, fold_;
  std::vector<float> idf_;
  std::vector<Group> groups_;
  int32_t residuals_ = 0;
};

}  // namespace

absl::StatusOr<RouterModel> TrainRouter(std::span<const RoutingSet> sets,
                                        const TrainOptions& options) {
  if (sets.empty()) return absl::InvalidArgumentError("no data to train on");
  for (const RoutingSet& set : sets) {
    const bool some = std::any_of(set.rows.begin(), set.rows.end(),
                                  [](const RoutingRow& row) { return !row.tokens.empty(); });
    const bool all = std::all_of(set.rows.begin(), set.rows.end(),
                                 [](const RoutingRow& row) { return !row.tokens.empty(); });
    if (some != all) {
      return absl::InvalidArgumentError(set.name + ": some rows lack \"response_tokens\"");
    }
  }
  return Trainer(sets, options).Run();
}

}  // namespace hostler
