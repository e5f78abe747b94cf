// The bandit on real outcomes, begun with a wrong prior, and with drift: what
// share of the best fixed model's reward it earns. The data is one or more
// .jsonl files of outcomes ("correct": model → 0 or 1, "response_tokens") and
// models.json with prices.

#include <algorithm>
#include <fstream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "router/policy/chooser.h"

namespace hostler {
namespace {

struct Flags {
  std::vector<std::string> data;
  std::string prices, set = "mmlupro_gen";
  double value = 0;  // USD of a good answer; 0: quality alone
  int requests = 2000;
  int seeds = 20;
  BanditOptions bandit;
};

struct Row {
  int prompt_tokens = 0;
  std::vector<double> correct, cost;  // [model]
};

struct Outcomes {
  std::vector<std::string> models;
  std::vector<Row> rows;
};

Outcomes Read(const Flags& flags) {
  Outcomes outcomes;
  const nlohmann::json prices = nlohmann::json::parse(std::ifstream(flags.prices)).at(flags.set);
  for (const auto& [model, price] : prices.items()) outcomes.models.push_back(model);
  for (const std::string& path : flags.data) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      const nlohmann::json json = nlohmann::json::parse(line);
      Row row;
      row.prompt_tokens = json.value("prompt_tokens", 0);
      for (const std::string& model : outcomes.models) {
        const nlohmann::json& price = prices.at(model);
        row.correct.push_back(json.at("correct").at(model).get<double>());
        const double answer =
            json.contains("response_tokens") ? json["response_tokens"].value(model, 0.0) : 0;
        row.cost.push_back((row.prompt_tokens * price.at("in").get<double>() +
                            answer * price.at("out").get<double>()) /
                           1e6);
      }
      outcomes.rows.push_back(std::move(row));
    }
  }
  return outcomes;
}

// Mean rewards over the last `window` of the requests, of the bandit and of the
// best fixed model there.
struct Earned {
  double bandit = 0, best_fixed = 0;
};

class Simulation {
 public:
  Simulation(const Flags& flags, const Outcomes& outcomes, uint64_t seed)
      : flags_(flags), outcomes_(outcomes), random_(seed) {
    BanditOptions options = flags.bandit;
    if (flags.value > 0) options.value_usd = flags.value;
    bandit_ = NewBandit(options);
    const size_t models = outcomes.models.size();
    snapshots_.resize(models);
    prior_.resize(models);
    mean_cost_.resize(models);
    labels_.resize(models);
    std::iota(labels_.begin(), labels_.end(), 0);
    for (const Row& row : outcomes.rows) {
      for (size_t m = 0; m < models; ++m) {
        prior_[m] += row.correct[m] / outcomes.rows.size();
        mean_cost_[m] += row.cost[m] / outcomes.rows.size();
      }
    }
    // Wrong: the best model is taken for the worst, and so on.
    const auto [low, high] = std::minmax_element(prior_.begin(), prior_.end());
    const double mirror = *low + *high;
    for (double& quality : prior_) quality = mirror - quality;
  }

  // From here on the best model answers as the worst does.
  void Drift() {
    // prior_ is mirrored: its extremes are those of quality, exchanged.
    const size_t a = size_t(std::min_element(prior_.begin(), prior_.end()) - prior_.begin());
    const size_t b = size_t(std::max_element(prior_.begin(), prior_.end()) - prior_.begin());
    labels_[a] = labels_[b];
  }

  Earned Run(int requests, int window) {
    std::vector<double> fixed(labels_.size());
    Earned earned;
    for (int i = 0; i < requests; ++i) {
      const Row& row = outcomes_.rows[random_() % outcomes_.rows.size()];
      const size_t chosen = Ask(row);
      if (i < requests - window) continue;
      earned.bandit += Paid(row, chosen) / window;
      for (size_t m = 0; m < fixed.size(); ++m) fixed[m] += Paid(row, m) / window;
    }
    earned.best_fixed = *std::max_element(fixed.begin(), fixed.end());
    return earned;
  }

 private:
  double Score(const Row& row, size_t model) const { return row.correct[labels_[model]]; }
  double Paid(const Row& row, size_t model) const {
    return Score(row, model) - (flags_.value > 0 ? row.cost[model] / flags_.value : 0);
  }

  size_t Ask(const Row& row) {
    std::vector<Candidate> candidates(labels_.size());
    for (size_t m = 0; m < candidates.size(); ++m) {
      candidates[m].target = &snapshots_[m];
      candidates[m].index = int(m);
      candidates[m].quality = prior_[m];
      candidates[m].cost_usd = mean_cost_[m];
    }
    RouteFeatures features;
    features.prompt_tokens = row.prompt_tokens;
    features.seed = random_();
    const Choice choice = bandit_->Choose(features, {}, candidates);
    const size_t chosen = size_t(choice.order.front());
    bandit_->Learn(choice.context, int(chosen), Score(row, chosen));
    return chosen;
  }

  const Flags& flags_;
  const Outcomes& outcomes_;
  std::mt19937_64 random_;
  std::unique_ptr<Chooser> bandit_;
  std::vector<TargetSnapshot> snapshots_;
  std::vector<double> prior_, mean_cost_;
  std::vector<size_t> labels_;  // whose answers a model gives
};

int Run(const Flags& flags) {
  const Outcomes outcomes = Read(flags);
  const int window = flags.requests / 4;
  std::vector<double> begin, learned, drifted;
  for (int seed = 0; seed < flags.seeds; ++seed) {
    Simulation simulation(flags, outcomes, uint64_t(seed));
    const Earned first = simulation.Run(window, window);
    const Earned then = simulation.Run(flags.requests - window, window);
    simulation.Drift();
    const Earned after = simulation.Run(flags.requests, window);
    begin.push_back(first.bandit / first.best_fixed);
    learned.push_back(then.bandit / then.best_fixed);
    drifted.push_back(after.bandit / after.best_fixed);
  }
  const auto show = [](const char* name, std::vector<double> shares) {
    std::sort(shares.begin(), shares.end());
    const double mean = std::accumulate(shares.begin(), shares.end(), 0.0) / shares.size();
    fmt::print("\"{}\":{{\"mean\":{:.4f},\"worst\":{:.4f}}}", name, mean, shares.front());
  };
  fmt::print(
      "{{\"rows\":{},\"models\":{},\"requests\":{},\"window\":{},\"seeds\":{},\"value_usd\":{},"
      "\"share_of_best_fixed\":{{",
      outcomes.rows.size(), outcomes.models.size(), flags.requests, window, flags.seeds,
      flags.value);
  show("first_window", begin);
  fmt::print(",");
  show("last_window", learned);
  fmt::print(",");
  show("last_window_after_drift", drifted);
  fmt::print("}}}}\n");
  return 0;
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) {
  hostler::Flags flags;
  CLI::App app("The bandit on real outcomes");
  app.add_option("--data", flags.data, "outcomes, .jsonl")->required();
  app.add_option("--prices", flags.prices, "models.json")->required();
  app.add_option("--set", flags.set, "its set");
  app.add_option("--value", flags.value, "USD that a good answer is worth; 0: quality alone");
  app.add_option("--requests", flags.requests);
  app.add_option("--seeds", flags.seeds);
  app.add_option("--prior-weight", flags.bandit.prior_weight);
  app.add_option("--explore", flags.bandit.explore);
  app.add_option("--forget", flags.bandit.forget);
  CLI11_PARSE(app, argc, argv);
  return hostler::Run(flags);
}
