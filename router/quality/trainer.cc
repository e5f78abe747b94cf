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
  int32_t first_head = 0;
  std::vector<int32_t> topics = {};
  std::vector<float> mean = {};       // [M]
  std::vector<float> mean_log = {};   // [M] of the answers' lengths, or empty
  Matrix basis = {};                  // [M, C]
  Matrix targets = {};                // [rows, C, then M of logs of lengths]
  std::vector<float> penalties = {};  // [targets.cols] of the heads' ridge

  size_t rows() const { return set->rows.size(); }
  int64_t directions() const { return basis.cols; }
  int64_t models() const { return mean.size(); }
};

class Trainer {
 public:
  Trainer(std::span<const RoutingSet> sets, const TrainOptions& options)
      : sets_(sets), options_(options) {}

  absl::StatusOr<RouterModel> Run() {
    HOSTLER_RETURN_IF_ERROR(Gather());
    Weigh();
    for (const RoutingSet& set : sets_) AddGroup(set);
    if (static_cast<int>(topic_names_.size()) + heads_ > kMaxOutputs) {
      return absl::InvalidArgumentError(fmt::format("{} topics and {} heads; at most {} together",
                                                    topic_names_.size(), heads_, kMaxOutputs));
    }
    Matrix topics(x_.size(), topic_names_.size());
    std::vector<Matrix> tried;
    for (const Group& group : groups_) tried.emplace_back(group.rows(), TriedHeads(group));
    for (int fold = 0; fold < options_.folds; ++fold) {
      Say(fmt::format("fold {} of {}", fold + 1, options_.folds));
      PredictFold(fold, &topics, tried);
    }
    for (size_t g = 0; g < groups_.size(); ++g) ChoosePenalties(&tried[g], &groups_[g]);
    Say("all rows");
    RouterModel model = Start();
    for (size_t g = 0; g < groups_.size(); ++g) {
      model.groups.push_back(Stack(groups_[g], topics, tried[g]));
    }
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
        x_.emplace_back();
        HashPrompt({.text = row.prompt}, options_.hash_bits, &x_.back());
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
    idf_.resize(hashed);
    for (size_t j = 0; j < hashed; ++j) {
      // Seen once: it tells nothing of other prompts.
      idf_[j] = documents[j] < 2 ? 0 : std::log((1.0 + x_.size()) / (1.0 + documents[j])) + 1;
    }
    for (auto& row : x_) WeighFeatures(idf_, &row);
  }

  void AddGroup(const RoutingSet& set) {
    Group group{.set = &set};
    group.first = groups_.empty() ? 0 : groups_.back().first + groups_.back().rows();
    group.first_head = heads_;
    const int64_t models = set.models.size(), rows = set.rows.size();
    const bool lengths = !set.rows[0].tokens.empty();
    group.mean.assign(models, 0);
    group.mean_log.assign(lengths ? models : 0, 0);
    for (const RoutingRow& row : set.rows) {
      for (int64_t m = 0; m < models; ++m) {
        group.mean[m] += row.quality[m] / rows;
        if (lengths) group.mean_log[m] += std::log(row.tokens[m] + 1) / rows;
      }
    }
    std::vector<bool> own(topic_names_.size());
    for (int64_t i = 0; i < rows; ++i) own[topic_[group.first + i]] = true;
    for (size_t k = 0; k < own.size(); ++k) {
      if (own[k]) group.topics.push_back(k);
    }
    group.basis = Basis(set, group.mean);
    const int64_t directions = group.directions();
    group.targets = Matrix(rows, directions + group.mean_log.size());
    group.penalties.assign(group.targets.cols, options_.length_penalty);
    heads_ += group.targets.cols;
    for (int64_t i = 0; i < rows; ++i) {
      float* targets = group.targets.row(i);
      const RoutingRow& row = set.rows[i];
      for (int64_t m = 0; m < models; ++m) {
        const float value = row.quality[m] - group.mean[m];
        for (int64_t c = 0; c < directions; ++c) targets[c] += value * group.basis.row(m)[c];
        if (lengths) targets[directions + m] = std::log(row.tokens[m] + 1) - group.mean_log[m];
      }
    }
    groups_.push_back(std::move(group));
  }

  // [M, C]: what all models have in common, then the principal directions in which they differ
  // (two models: sum and difference). A prompt that is as much harder for all of
  // them changes no choice.
  Matrix Basis(const RoutingSet& set, const std::vector<float>& mean) const {
    const int64_t models = set.models.size();
    Matrix covariance(models, models);
    std::vector<float> off(models);
    for (const RoutingRow& row : set.rows) {
      float common = 0;
      for (int64_t m = 0; m < models; ++m) common += (row.quality[m] - mean[m]) / models;
      for (int64_t m = 0; m < models; ++m) off[m] = row.quality[m] - mean[m] - common;
      for (int64_t a = 0; a < models; ++a) {
        for (int64_t b = 0; b < models; ++b) covariance.row(a)[b] += off[a] * off[b];
      }
    }
    const Matrix differences = Eigenvectors(std::move(covariance));
    Matrix basis(models, std::min<int64_t>(models, options_.max_directions));
    for (int64_t m = 0; m < models; ++m) {
      basis.row(m)[0] = 1 / std::sqrt(static_cast<float>(models));
      std::copy_n(differences.row(m), basis.cols - 1, basis.row(m) + 1);
    }
    return basis;
  }

  // Heads that are tried for a group: the directions' by each penalty, then the lengths'.
  int64_t TriedHeads(const Group& group) const {
    return group.directions() * options_.penalties.size() + group.mean_log.size();
  }

  // What the examples of a fold get from fits of the others: logits of topics, and of
  // each group the heads that are tried.
  void PredictFold(int fold, Matrix* topics, std::span<Matrix> tried) const {
    const SoftmaxModel classifier = FitTopics(fold);
    for (size_t i = 0; i < x_.size(); ++i) {
      if (fold_[i] != fold) continue;
      classifier.Logits(x_[i], {topics->row(i), static_cast<size_t>(topics->cols)});
    }
    for (size_t g = 0; g < groups_.size(); ++g) {
      const Group& group = groups_[g];
      std::vector<float> penalties;
      for (const float penalty : options_.penalties) {
        penalties.insert(penalties.end(), group.directions(), penalty);
      }
      penalties.resize(TriedHeads(group), options_.length_penalty);
      const Matrix weights = FitHeads(group, fold, penalties);
      for (size_t i = 0; i < group.rows(); ++i) {
        if (fold_[group.first + i] != fold) continue;
        Multiply(x_[group.first + i], weights,
                 {tried[g].row(i), static_cast<size_t>(weights.cols)});
      }
    }
  }

  // For each direction the penalty whose head has the least squared error in rows that it
  // was not fitted to. heads, [rows, TriedHeads], become those by the chosen ones,
  // [rows, targets.cols].
  void ChoosePenalties(Matrix* heads, Group* group) const {
    const int64_t directions = group->directions();
    Matrix chosen(heads->rows, group->targets.cols);
    for (int64_t c = 0; c < directions; ++c) {
      size_t best = 0;
      double least = 0;
      for (size_t p = 0; p < options_.penalties.size(); ++p) {
        double error = 0;
        for (int64_t i = 0; i < heads->rows; ++i) {
          const double off = group->targets.row(i)[c] - heads->row(i)[p * directions + c];
          error += off * off;
        }
        if (p > 0 && error >= least) continue;
        least = error;
        best = p;
      }
      group->penalties[c] = options_.penalties[best];
      for (int64_t i = 0; i < heads->rows; ++i) {
        chosen.row(i)[c] = heads->row(i)[best * directions + c];
      }
    }
    const int64_t lengths = group->mean_log.size();
    for (int64_t i = 0; i < heads->rows; ++i) {
      std::copy_n(heads->row(i) + heads->cols - lengths, lengths, chosen.row(i) + directions);
    }
    *heads = std::move(chosen);
  }

  // fold < 0: by all examples; else by those of the other folds.
  SoftmaxModel FitTopics(int fold) const {
    FeatureRows rows;
    std::vector<int32_t> labels;
    for (size_t i = 0; i < x_.size(); ++i) {
      if (fold_[i] == fold) continue;
      rows.emplace_back(x_[i]);
      labels.push_back(topic_[i]);
    }
    return FitSoftmax(rows, labels, topic_names_.size(), idf_.size(), {.epochs = options_.epochs});
  }

  // One head for each penalty: the directions' as often as there are more of those than
  // heads, then the lengths'.
  Matrix FitHeads(const Group& group, int fold, std::span<const float> penalties) const {
    const std::vector<size_t> used = OfOtherFolds(group, fold);
    const int64_t directions = group.directions(), lengths = group.mean_log.size();
    FeatureRows rows;
    Matrix targets(used.size(), penalties.size());
    for (size_t n = 0; n < used.size(); ++n) {
      rows.emplace_back(x_[group.first + used[n]]);
      const float* from = group.targets.row(used[n]);
      float* to = targets.row(n);
      for (int64_t c = 0; c < targets.cols - lengths; c += directions) {
        std::copy_n(from, directions, to + c);
      }
      std::copy_n(from + directions, lengths, to + targets.cols - lengths);
    }
    return FitRidge(rows, targets, idf_.size(), penalties, kRidgeSteps);
  }

  // Rows of the group; fold < 0: all.
  std::vector<size_t> OfOtherFolds(const Group& group, int fold) const {
    std::vector<size_t> used;
    for (size_t i = 0; i < group.rows(); ++i) {
      if (fold_[group.first + i] != fold) used.push_back(i);
    }
    return used;
  }

  // Mean targets of each of the group's topics, [topics, C], in the rows of other folds.
  Matrix TopicMeans(const Group& group, int fold) const {
    Matrix means(group.topics.size(), group.directions());
    std::vector<float> counts(group.topics.size(), options_.topic_prior);
    for (const size_t i : OfOtherFolds(group, fold)) {
      const auto at =
          std::lower_bound(group.topics.begin(), group.topics.end(), topic_[group.first + i]);
      const size_t k = at - group.topics.begin();
      counts[k] += 1;
      for (int64_t c = 0; c < means.cols; ++c) means.row(k)[c] += group.targets.row(i)[c];
    }
    for (int64_t k = 0; k < means.rows; ++k) {
      for (int64_t c = 0; c < means.cols; ++c) means.row(k)[c] /= counts[k];
    }
    return means;
  }

  // Everything but the groups; weights as 8-bit integers with a scale a row.
  RouterModel Start() const {
    const SoftmaxModel classifier = FitTopics(-1);
    std::vector<Matrix> heads;  // of each group: [features, targets.cols]
    for (const Group& group : groups_) heads.push_back(FitHeads(group, -1, group.penalties));
    RouterModel model{.hash_bits = options_.hash_bits,
                      .embedding_size = static_cast<int32_t>(embedding_size_),
                      .topics = static_cast<int32_t>(topic_names_.size()),
                      .heads = heads_};
    model.idf = idf_;
    model.bias = classifier.bias;
    const int outputs = model.outputs();
    model.row_scale.resize(idf_.size());
    model.weights.resize(idf_.size() * outputs);
    std::vector<float> row(outputs);
    for (size_t j = 0; j < idf_.size(); ++j) {
      std::copy_n(classifier.weights.row(j), model.topics, row.data());
      for (size_t g = 0; g < groups_.size(); ++g) {
        for (int64_t c = 0; c < heads[g].cols; ++c) {
          row[model.topics + groups_[g].first_head + c] =
              heads[g].row(j)[c] * HeadScale(groups_[g], c);
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

  // Joins topic means and heads, by how well they foretell rows that they were not
  // fitted to. topics [examples, topics] are logits, heads [rows, targets.cols].
  RouterGroup Stack(const Group& group, const Matrix& topics, const Matrix& heads) const {
    const int64_t rows = group.rows(), directions = group.directions();
    RouterGroup out{.name = group.set->name,
                    .models = group.set->models,
                    .topics = group.topics,
                    .first_head = group.first_head,
                    .mean = group.mean,
                    .basis = group.basis.values};
    const Matrix mixture = BestMixture(group, topics, &out.sharpness);
    Matrix theta = TopicMeans(group, -1);
    // The estimate is the mean of both; what the models have in common is then made true
    // to scale. Weights fitted to each direction, or to all, have the lesser squared error,
    // and choose worse models.
    double covariance = 0, variance = 1;
    for (int64_t i = 0; i < rows; ++i) {
      const float* head = heads.row(i);
      const double common = (mixture.row(i)[0] + head[0]) / 2;
      covariance += common * group.targets.row(i)[0];
      variance += common * common;
    }
    const float factor = std::max(0.0f, static_cast<float>(covariance / variance));
    for (int64_t c = 0; c < directions; ++c) {
      const float weight = c == 0 ? factor / 2 : 0.5f;
      for (int64_t k = 0; k < theta.rows; ++k) theta.row(k)[c] *= weight;
      out.head.push_back(weight / kDirectionScale);
    }
    out.theta = theta.values;
    ScaleLengths(group, heads, &out);
    if (embedding_size_ == 0) return out;
    out.neighbours.count = options_.neighbours;
    out.neighbours.weight = options_.neighbour_weight;
    for (const RoutingRow& row : group.set->rows) {
      AddNeighbour(row.embedding, row.quality, &out.neighbours);
    }
    return out;
  }

  // The mixture of topic means, [rows, C], each fold's by means of the others, and
  // the sharpness with the least squared error.
  Matrix BestMixture(const Group& group, const Matrix& topics, float* sharpness) const {
    std::vector<Matrix> means;
    for (int fold = 0; fold < options_.folds; ++fold) means.push_back(TopicMeans(group, fold));
    Matrix best;
    double least = 0;
    for (const float sharp : {0.5f, 0.7f, 1.0f, 1.4f, 2.0f, 3.0f}) {
      Matrix mixture(group.rows(), group.directions());
      std::vector<float> p(group.topics.size());
      double error = 0;
      for (size_t i = 0; i < group.rows(); ++i) {
        const float* logits = topics.row(group.first + i);
        for (size_t k = 0; k < p.size(); ++k) p[k] = sharp * logits[group.topics[k]];
        Softmax(p);
        const Matrix& theta = means[fold_[group.first + i]];
        for (int64_t c = 0; c < mixture.cols; ++c) {
          for (size_t k = 0; k < p.size(); ++k) mixture.row(i)[c] += p[k] * theta.row(k)[c];
          const double off = group.targets.row(i)[c] - mixture.row(i)[c];
          error += off * off;
        }
      }
      if (best.rows > 0 && error >= least) continue;
      least = error;
      best = std::move(mixture);
      *sharpness = sharp;
    }
    return best;
  }

  // So that foretold lengths have the mean of the real ones.
  void ScaleLengths(const Group& group, const Matrix& heads, RouterGroup* out) const {
    for (size_t m = 0; m < group.mean_log.size(); ++m) {
      double real = 0, foretold = 0;
      for (size_t i = 0; i < group.rows(); ++i) {
        real += group.set->rows[i].tokens[m];
        foretold += std::exp(group.mean_log[m] + heads.row(i)[group.directions() + m]);
      }
      out->length.push_back(group.mean_log[m]);
      out->length.push_back(static_cast<float>(real / foretold));
    }
  }

  // Of the heads among the 8-bit weights: topic logits are about ten times as large.
  static float HeadScale(const Group& group, int64_t head) {
    return head < group.directions() ? kDirectionScale : 1;
  }
  static constexpr float kDirectionScale = 8;

  const std::span<const RoutingSet> sets_;
  const TrainOptions& options_;
  size_t embedding_size_ = 0;
  std::vector<std::string> topic_names_;
  std::vector<std::vector<Feature>> x_;
  std::vector<int32_t> topic_, fold_;
  std::vector<float> idf_;
  std::vector<Group> groups_;
  int32_t heads_ = 0;
};

}  // namespace

absl::StatusOr<RouterModel> TrainRouter(std::span<const RoutingSet> sets,
                                        const TrainOptions& options) {
  if (sets.empty()) return absl::InvalidArgumentError("no data to train on");
  if (options.penalties.empty()) return absl::InvalidArgumentError("no penalty");
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
