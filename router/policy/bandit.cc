// Thompson sampling with linear models: Agrawal and Goyal, "Thompson Sampling for
// Contextual Bandits with Linear Payoffs" (ICML 2013); the prior is the trained
// router's, as in "LLM Bandit" (2025). Old feedback fades towards the prior, so
// that drift is followed.
#include <array>
#include <cmath>
#include <mutex>
#include <random>

#include "fmt/format.h"
#include "router/policy/chooser.h"
#include "router/policy/ranking.h"

namespace hostler {
namespace {

constexpr int kSize = 4;  // 1, predicted quality, length, code
using Vector = std::array<double, kSize>;

// Of a quality between 0 and 1.
constexpr double kNoise = 0.5;
// What a context begins with; the candidates' predicted qualities follow.
constexpr size_t kShared = 2;

// Quality of one candidate's answers: theta · x, theta normal.
class LinearModel {
 public:
  explicit LinearModel(double prior_weight) : prior_(prior_weight) {
    for (int i = 0; i < kSize; ++i) {
      precision_[i][i] = prior_;
      moment_[i] = prior_ * kPriorMean[i];
    }
  }

  void Forget(double keep) {
    for (int i = 0; i < kSize; ++i) {
      for (double& value : precision_[i]) value *= keep;
      precision_[i][i] += (1 - keep) * prior_;
      moment_[i] = keep * moment_[i] + (1 - keep) * prior_ * kPriorMean[i];
    }
  }

  void Add(const Vector& x, double score) {
    for (int i = 0; i < kSize; ++i) {
      for (int j = 0; j < kSize; ++j) precision_[i][j] += x[i] * x[j];
      moment_[i] += x[i] * score;
    }
  }

  nlohmann::ordered_json ToJson() const { return {{"precision", precision_}, {"moment", moment_}}; }

  // False: it is none, and nothing has changed. What was learned need not have begun with the same
  // prior_weight: Forget leads to this model's own.
  bool FromJson(const nlohmann::ordered_json& json) {
    if (!json.is_object() || !json.contains("precision") || !json.contains("moment")) return false;
    const nlohmann::ordered_json& rows = json["precision"];
    LinearModel read = *this;
    if (!rows.is_array() || rows.size() != kSize || !ReadVector(json["moment"], &read.moment_)) {
      return false;
    }
    for (int i = 0; i < kSize; ++i) {
      if (!ReadVector(rows[size_t(i)], &read.precision_[i])) return false;
    }
    for (int i = 0; i < kSize; ++i) {
      for (int j = 0; j < i; ++j) {
        if (read.precision_[i][j] != read.precision_[j][i]) return false;
      }
      // Each pivot of a positive definite matrix: see At.
      Vector unit = {};
      unit[i] = 1;
      const auto [mean, deviation] = read.At(unit);
      if (!std::isfinite(mean) || !std::isfinite(deviation)) return false;
    }
    *this = read;
    return true;
  }

  // Of the quality at `x`: mean and standard deviation.
  std::pair<double, double> At(const Vector& x) const {
    // precision = L Lᵀ; y = L⁻¹ x gives the variance |y|², and with z = L⁻¹ moment
    // the mean y · z.
    std::array<Vector, kSize> l = {};
    Vector y = {}, z = {};
    double mean = 0, variance = 0;
    for (int i = 0; i < kSize; ++i) {
      for (int j = 0; j <= i; ++j) {
        double sum = precision_[i][j];
        for (int k = 0; k < j; ++k) sum -= l[i][k] * l[j][k];
        l[i][j] = i == j ? std::sqrt(sum) : sum / l[j][j];
      }
      y[i] = x[i];
      z[i] = moment_[i];
      for (int k = 0; k < i; ++k) {
        y[i] -= l[i][k] * y[k];
        z[i] -= l[i][k] * z[k];
      }
      y[i] /= l[i][i];
      z[i] /= l[i][i];
      mean += y[i] * z[i];
      variance += y[i] * y[i];
    }
    return {mean, kNoise * std::sqrt(variance)};
  }

 private:
  static bool ReadVector(const nlohmann::ordered_json& json, Vector* to) {
    constexpr double kMost = 1e12;
    if (!json.is_array() || json.size() != kSize) return false;
    for (int i = 0; i < kSize; ++i) {
      const nlohmann::ordered_json& value = json[size_t(i)];
      if (!value.is_number() || !(std::abs(value.get<double>()) <= kMost)) return false;
      (*to)[i] = value.get<double>();
    }
    return true;
  }

  // Before any feedback the quality is what was predicted.
  static constexpr Vector kPriorMean = {0.5, 1, 0, 0};
  double prior_;
  std::array<Vector, kSize> precision_ = {};
  Vector moment_ = {};
};

double LengthFeature(const RouteFeatures& features) {
  return std::log2(1.0 + features.prompt_tokens) / 10 - 0.8;  // 0 at 255 tokens
}

double CodeFeature(const RouteFeatures& features) {
  const bool code = features.prompt.text.find("```") != std::string_view::npos ||
                    features.prompt.text.find("();") != std::string_view::npos;
  return code ? 0.5 : 0;
}

Vector Features(const std::vector<double>& context, int index) {
  return {1, context[kShared + size_t(index)] - 0.5, context[0], context[1]};
}

class Bandit : public Chooser {
 public:
  explicit Bandit(const BanditOptions& options) : options_(options) {}

  std::string_view name() const override { return "bandit"; }

  Choice Choose(const RouteFeatures& features, const Limits& limits,
                std::span<const Candidate> candidates) override {
    Choice choice;
    choice.context = {LengthFeature(features), CodeFeature(features)};
    for (const Candidate& candidate : candidates) {
      const size_t place = kShared + size_t(candidate.index);
      if (place >= choice.context.size()) choice.context.resize(place + 1, 0.5);
      choice.context[place] = candidate.quality;
    }
    std::mt19937_64 random(features.seed);
    std::normal_distribution<double> normal;
    std::vector<double> learned(candidates.size()), drawn(candidates.size());
    {
      std::lock_guard lock(mutex_);
      for (size_t i = 0; i < candidates.size(); ++i) {
        const Vector x = Features(choice.context, candidates[i].index);
        const auto [mean, deviation] = Model(candidates[i].index).At(x);
        learned[i] = mean;
        drawn[i] = mean + options_.explore * deviation * normal(random);
      }
    }
    const double floor = limits.min_quality.value_or(0);
    const auto worth = [&](size_t i, double quality) {
      return (learned[i] < floor ? -1e9 : 0) + Worth(quality, candidates[i].cost_usd);
    };
    choice.order = RankBy(candidates, [&](const Candidate& c) {
      const size_t i = size_t(&c - candidates.data());
      return worth(i, drawn[i]);
    });
    const size_t chosen = size_t(choice.order.front());
    bool greedy = true;
    for (size_t i = 0; i < candidates.size(); ++i) {
      greedy &= worth(i, learned[i]) <= worth(chosen, learned[chosen]);
    }
    choice.rule = greedy ? "learned" : "explored";
    choice.reason = fmt::format("{} of {}, quality {:.2f} learned from {:.2f} predicted",
                                greedy ? "best" : "tried", candidates.size(), learned[chosen],
                                candidates[chosen].quality);
    return choice;
  }

  void Learn(const std::vector<double>& context, int index, double score) override {
    if (kShared + size_t(index) >= context.size()) return;
    std::lock_guard lock(mutex_);
    LinearModel& model = Model(index);
    for (LinearModel& each : models_) each.Forget(options_.forget);
    model.Add(Features(context, index), score);
  }

  nlohmann::ordered_json Learned(int index) override {
    std::lock_guard lock(mutex_);
    return Model(index).ToJson();
  }

  absl::Status Restore(int index, const nlohmann::ordered_json& learned) override {
    std::lock_guard lock(mutex_);
    if (Model(index).FromJson(learned)) return absl::OkStatus();
    return absl::InvalidArgumentError("what its bandit has learned makes no sense");
  }

 private:
  double Worth(double quality, double cost_usd) const {
    return options_.value_usd.has_value() ? *options_.value_usd * quality - cost_usd : quality;
  }

  // REQUIRES: mutex_ is held.
  LinearModel& Model(int index) {
    while (models_.size() <= size_t(index)) models_.emplace_back(options_.prior_weight);
    return models_[size_t(index)];
  }

  const BanditOptions options_;
  std::mutex mutex_;
  std::vector<LinearModel> models_;  // by Candidate::index; guarded by mutex_
};

}  // namespace

std::unique_ptr<Chooser> NewBandit(const BanditOptions& options) {
  return std::make_unique<Bandit>(options);
}

}  // namespace hostler
