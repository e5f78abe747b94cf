// Chooser: what a policy does with scored candidates. One file each.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "router/policy.h"

namespace hostler {

// One target that can take the request. What is not known of its cost or
// latency is 0, so that it gets tried.
struct Candidate {
  const TargetSnapshot* target = nullptr;
  int index = 0;  // of its name among the virtual model's targets: the same for every request
  double quality = 0;
  double output_tokens = 0;
  double cost_usd = 0;
  double first_token_s = 0;
  double latency_s = 0;
  int cached_tokens = 0;
};

struct Limits {
  std::optional<double> min_quality = std::nullopt;
  std::optional<double> max_cost = std::nullopt;  // USD
  std::optional<double> deadline_s = std::nullopt;
};

struct Choice {
  std::vector<int> order;  // of candidates, all of them, best first
  std::string reason;      // without the policy's name
  std::string_view rule;   // one of a few words
  std::optional<CascadeJudge> judge;
  std::vector<double> context;  // what Learn will want
};

// Thread-safe.
class Chooser {
 public:
  virtual ~Chooser() = default;
  virtual std::string_view name() const = 0;
  // REQUIRES: there are candidates. Those above limits.max_cost were left out.
  virtual Choice Choose(const RouteFeatures& features, const Limits& limits,
                        std::span<const Candidate> candidates) = 0;
  // The answer of the candidate with this index was this good (0 … 1).
  virtual void Learn(const std::vector<double>& context, int index, double score) {
    (void)context, (void)index, (void)score;
  }
  // What it has learned of the candidate with this index, to be kept over a restart; null:
  // nothing.
  virtual nlohmann::ordered_json Learned(int index) {
    (void)index;
    return nullptr;
  }
  // Errors: InvalidArgument for what is none of Learned's; nothing has changed then.
  virtual absl::Status Restore(int index, const nlohmann::ordered_json& learned) {
    (void)index, (void)learned;
    return absl::InvalidArgumentError("it learns nothing");
  }
};

// cost_quality. With `value_usd`, what a good answer is worth: the most of
// value · quality − cost among those that reach the quality floor. Without: the
// cheapest that reaches the floor; without a floor the best. Those beyond the
// deadline count only if all are. None reaches the floor: the best.
std::unique_ptr<Chooser> NewCostQuality(std::optional<double> value_usd);

// best_effort: the best candidate that should meet limits.deadline_s. One that
// would not is shut until it would meet it with a good margin (hysteresis). None
// left: the fastest. Without a deadline: the best.
std::unique_ptr<Chooser> NewBestEffort();

// cascade: the cheapest local candidate first, its answer judged by `judge`;
// then the best. One whose predicted quality is below limits.min_quality is not
// tried.
std::unique_ptr<Chooser> NewCascade(CascadeJudge judge);

// bandit: Thompson sampling over one linear model for each candidate, whose
// prior is the predicted quality. It maximises value · quality − cost, or
// quality without `value_usd`. `forget` is what old feedback keeps of its weight
// at each new one.
struct BanditOptions {
  std::optional<double> value_usd = {};
  double prior_weight = 5;  // feedbacks that the prediction is worth
  double explore = 0.5;     // 0: never tries what looks worse
  double forget = 0.998;
};
std::unique_ptr<Chooser> NewBandit(const BanditOptions& options);

// affinity: what `inner` says, but a conversation stays where at least half of
// its prompt is cached, unless leaving gains more than `min_gain` in quality or
// saves half the cost.
std::unique_ptr<Chooser> NewAffinity(std::unique_ptr<Chooser> inner, double min_gain);

}  // namespace hostler
