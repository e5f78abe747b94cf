// RoutingPolicy: which target answers a request to a virtual model.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine/request.h"
#include "router/route_prompt.h"
#include "router/route_wish.h"
#include "router/target.h"

namespace hostler {

// What of a request a policy looks at. Views into the request.
struct RouteFeatures {
  int prompt_tokens = 0;
  bool prompt_tokens_estimated = false;  // from the text's length
  int max_tokens = 0;                    // 0: not given
  int n = 1;                             // sequences asked
  bool upstreams_only = false;           // no engine here can answer it
  RoutePrompt prompt = {};
  EmbeddingUse embedding = EmbeddingUse::kNone;  // what became of prompt.embedding
  double embed_s = 0;                            // and how long that took
  RouteWish wish = {};
  // Hashes of the conversation up to each message, oldest first, and how many
  // tokens that is, about.
  struct Prefix {
    uint64_t hash = 0;
    int tokens = 0;
  };
  std::vector<Prefix> prefixes = {};
  uint64_t seed = 0;  // of what a policy draws at random; the same for the same request id
  std::chrono::steady_clock::time_point now = {};
};

// left_out of candidates that a bound on cost excluded. The others could not be asked at all.
inline constexpr std::string_view kOverBudget = "over the budget", kOverMaxCost = "over max_cost";

// One target as a decision saw it. NaN: not known.
struct CandidateReport {
  std::string target;
  double quality = NAN;        // probability that the answer is good
  double output_tokens = NAN;  // expected
  double cost_usd = NAN;
  double first_token_s = NAN;  // queue included
  double latency_s = NAN;      // to the end of the answer
  int cached_tokens = 0;       // of the prompt, that its prefix cache should hold
  std::string left_out;        // why it could not be chosen; "": it could
};

// A cascade's first answer is judged by the logprobs of its own tokens.
struct CascadeJudge {
  double min_logprob = 0;  // mean of the first `tokens`; below it the next target answers
  int tokens = 32;
};

struct Decision {
  std::string target;
  // In words, short enough for a header: "explicit", or
  // "static: 37 prompt tokens <= 200, cheapest of 2".
  std::string reason;

  // The rest is a virtual model's.
  std::string virtual_model;           // "": the client named a target
  std::string policy;                  // its name
  std::string rule;                    // what decided: one of a few words, for metrics
  std::vector<std::string> fallbacks;  // who is asked when `target` fails, in this order
  std::optional<CascadeJudge> judge;   // of target's answer; fallbacks[0] is the next
  // fallbacks[0] is asked as well when there is no token after so many seconds, whoever has
  // one first answers; infinite: that cannot be told yet.
  std::optional<double> hedge_after_s;
  std::string shadow;  // one of the fallbacks, which answers as well, unseen; "": none
  std::vector<CandidateReport> candidates;
  uint64_t version = 0;  // of the router file; 0: none
  EmbeddingUse embedding = EmbeddingUse::kNone;
  double embed_s = 0;           // spent on the embedding
  RouteWish wish;               // what the client asked of the routing
  double reserved_usd = 0;      // taken off the payer's budget until the cost is known
  std::vector<double> context;  // what a bandit saw
  std::vector<RouteFeatures::Prefix> prefixes;

  // Null: no such candidate.
  const CandidateReport* Find(std::string_view name) const;
};

// How a decision turned out.
struct RouteOutcome {
  std::string target;  // that answered
  absl::Status status;
  Usage usage;
  Timings timings;
  double cost_usd = NAN;
  int fallbacks = 0;       // targets that were asked before it and failed
  bool hedged = false;     // another was asked beside it
  bool escalated = false;  // by a cascade
};

class Budgets;      // router/policy/budget.h
class QualitySlot;  // router/policy/quality_slot.h

// Thread-safe.
class RoutingPolicy {
 public:
  virtual ~RoutingPolicy() = default;
  virtual std::string_view name() const = 0;
  // Adds what takes time to find, before the targets are looked at: the prompt's
  // embedding, in `storage`.
  virtual void Prepare(RouteFeatures* features, std::vector<float>* storage) {
    (void)features, (void)storage;
  }
  // Errors: Unavailable, InvalidArgument or ResourceExhausted, saying why no target will do;
  // FailedPrecondition when all that could be asked are engines here, and these cannot
  // answer it.
  virtual absl::StatusOr<Decision> Decide(const RouteFeatures& features,
                                          std::span<const TargetSnapshot> targets) = 0;
  // A decision of this policy is carried out. Not called for those that are only asked for.
  virtual void Started(const Decision&) {}
  // It is over, whatever came of it.
  virtual void Finished(const Decision&, const RouteOutcome&) {}
  // How good the answer of `target` was: 0 … 1.
  virtual void Learn(const Decision&, const std::string& target, double score) {
    (void)target, (void)score;
  }
  // Its router file; null: it has none.
  virtual QualitySlot* quality() { return nullptr; }
  // What all its requests may cost; null: it counts nothing.
  virtual Budgets* budgets() { return nullptr; }
};

// One line of a static policy's table.
struct StaticRule {
  std::string target;
  int max_prompt_tokens = 0;  // 0: any length
};

// The cheapest (by input + output price; equal: the first listed) target whose
// rule takes a prompt of this length and whose context holds it. Without rules
// every target takes any length.
std::unique_ptr<RoutingPolicy> NewStaticPolicy(std::vector<StaticRule> rules);

}  // namespace hostler
