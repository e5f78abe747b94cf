#include "router/policy/scored_policy.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <utility>

#include "engine/base/status.h"
#include "engine/base/wire_error.h"
#include "fmt/format.h"
#include "router/policy/limits.h"
#include "router/quality/prompt_embedder.h"

namespace hostler {
namespace {

constexpr char kUnable[] = "no model of this server can answer this";

std::vector<StaticRule> RulesFor(const std::vector<TargetTerms>& targets) {
  std::vector<StaticRule> rules;
  for (const TargetTerms& each : targets) rules.push_back({each.target, 0});
  return rules;
}

// Seconds until a sequence that comes now leaves the queue.
double QueueSeconds(const TargetSnapshot& target) {
  const double service = target.speed.service_s;
  if (target.waiting > 0) return (target.waiting + 1) * service / std::max(target.running, 1);
  const bool full = target.max_concurrency > 0 && target.running >= target.max_concurrency;
  return full ? service / target.running : 0;
}

// Cost and latency of `features` at `target`.
void Estimate(const RouteFeatures& features, const TargetSnapshot& target, Candidate* candidate) {
  const ObservedSpeed& speed = target.speed;
  const double prefill = std::max(features.prompt_tokens - candidate->cached_tokens, 0);
  const double first = speed.base_s + prefill * speed.prompt_token_s;
  const double decode = std::max(candidate->output_tokens - 1, 0.0) * speed.decode_token_s;
  candidate->first_token_s = QueueSeconds(target) + first;
  candidate->latency_s = candidate->first_token_s + decode;
  candidate->cost_usd =
      CostUsd(target.price, features.prompt_tokens, features.n * candidate->output_tokens,
              (first + decode) / (target.running + 1));
}

const char* WhyNot(const RouteFeatures& features, const TargetSnapshot& target) {
  if (features.upstreams_only && target.local) return kUnable;
  if (!target.available) return "not available";
  const int64_t needed = int64_t{features.prompt_tokens} + std::max(features.max_tokens, 1);
  if (target.max_context > 0 && needed > target.max_context) return "its context is too short";
  return "";
}

}  // namespace

// What is known of every target, and which of them can be chosen.
struct ScoredRoutingPolicy::Scores {
  std::vector<CandidateReport> reports;  // of all
  std::vector<Candidate> candidates;     // of those that can be chosen
};

ScoredRoutingPolicy::ScoredRoutingPolicy(ScoredRoutingOptions options,
                                         std::unique_ptr<Chooser> chooser)
    : options_(std::move(options)),
      chooser_(std::move(chooser)),
      fallback_(NewStaticPolicy(RulesFor(options_.targets))),
      quality_(options_.targets, options_.router_file, options_.load,
               options_.embedder == nullptr ? EmbeddingKind() : options_.embedder->kind()),
      budgets_(options_.payer_day_usd, options_.day_usd) {
  // A file that cannot be read: quality().status() tells, the static policy serves.
  if (!options_.router_file.empty()) quality_.Reload().IgnoreError();
}

int ScoredRoutingPolicy::IndexOf(std::string_view target) const {
  for (size_t i = 0; i < options_.targets.size(); ++i) {
    if (options_.targets[i].target == target) return int(i);
  }
  return -1;
}

ScoredRoutingPolicy::Scores ScoredRoutingPolicy::Score(const RouteFeatures& features,
                                                       std::span<const TargetSnapshot> targets,
                                                       const LoadedQuality* loaded) {
  Scores scores;
  const size_t count = options_.targets.size();
  std::vector<QualityEstimate> guesses;
  if (loaded != nullptr) {
    guesses.resize(loaded->source->models().size());
    RoutePrompt prompt = features.prompt;
    // The file may be another than when the prompt was embedded.
    if (!loaded->embeds) prompt.embedding = {};
    loaded->source->Predict(prompt, guesses);
  }
  std::vector<int> cached(count);
  conversations_.Find(features.prefixes, cached);
  for (size_t i = 0; i < count; ++i) {
    const TargetTerms& terms = options_.targets[i];
    const auto target = std::find_if(targets.begin(), targets.end(),
                                     [&](const auto& t) { return t.name == terms.target; });
    if (target == targets.end()) continue;
    const int column = loaded == nullptr ? -1 : loaded->columns[i];
    Candidate candidate{.target = &*target, .index = int(i)};
    candidate.quality = column < 0 ? terms.quality.value_or(0) : guesses[column].quality;
    candidate.output_tokens = column < 0 ? 0 : guesses[column].output_tokens;
    if (!(candidate.output_tokens > 0)) {
      candidate.output_tokens =
          target->speed.requests > 0 ? target->speed.output_tokens : options_.output_tokens;
    }
    if (features.max_tokens > 0) {
      candidate.output_tokens = std::min<double>(candidate.output_tokens, features.max_tokens);
    }
    candidate.cached_tokens = std::min(cached[i], features.prompt_tokens);
    Estimate(features, *target, &candidate);

    CandidateReport report;
    report.target = terms.target;
    report.quality = candidate.quality;
    report.output_tokens = candidate.output_tokens;
    report.cost_usd = candidate.cost_usd;
    if (target->speed.requests > 0) {
      report.first_token_s = candidate.first_token_s;
      report.latency_s = candidate.latency_s;
    }
    report.cached_tokens = candidate.cached_tokens;
    report.left_out = WhyNot(features, *target);
    if (report.left_out.empty()) scores.candidates.push_back(candidate);
    scores.reports.push_back(std::move(report));
  }
  return scores;
}

void ScoredRoutingPolicy::Prepare(RouteFeatures* features, std::vector<float>* storage) {
  const std::shared_ptr<const LoadedQuality> loaded = quality_.current();
  if (loaded == nullptr || !loaded->embeds || features->prompt.text.empty()) return;
  const auto begin = std::chrono::steady_clock::now();
  storage->resize(static_cast<size_t>(options_.embedder->kind().size));
  features->embedding = options_.embedder->Embed(features->prompt.text, *storage);
  if (features->embedding == EmbeddingUse::kUsed) features->prompt.embedding = *storage;
  features->embed_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

absl::StatusOr<Decision> ScoredRoutingPolicy::DecideStatic(
    const RouteFeatures& features, std::span<const TargetSnapshot> targets) {
  HOSTLER_ASSIGN_OR_RETURN(Decision decision, fallback_->Decide(features, targets));
  decision.policy = fallback_->name();
  decision.rule = "no_router_file";
  decision.reason += ", as there is no router file";
  return decision;
}

// Leaves out what costs too much. `left`: of the budgets. Errors: as Decide.
absl::Status ScoredRoutingPolicy::ApplyCostLimit(const RouteFeatures& features, double left,
                                                 Limits* limits, Scores* scores) const {
  const double limit = std::min(left, limits->max_cost.value_or(left));
  if (limit == std::numeric_limits<double>::infinity()) return absl::OkStatus();
  const Candidate cheapest = Cheapest(scores->candidates);
  if (cheapest.cost_usd > limit) {
    const std::optional<double>& own = features.wish.max_cost;
    if (own.has_value() && cheapest.cost_usd > *own) {
      return FieldError("hostler.max_cost",
                        fmt::format("the cheapest answer, of {}, should cost ${:.3g}",
                                    cheapest.target->name, cheapest.cost_usd));
    }
    if (options_.reject_over_budget) {
      const std::string what =
          fmt::format("${:.3g} is left, and the cheapest answer, of {}, should cost ${:.3g}", limit,
                      cheapest.target->name, cheapest.cost_usd);
      if (limit < left) return absl::ResourceExhaustedError("max_cost: " + what);
      return WithWireError(absl::ResourceExhaustedError("today's budget: " + what),
                           {.http_status = 0, .body = "", .retry_after_s = SecondsLeftToday()});
    }
  }
  const double kept = LeaveOutAbove(limit, &scores->candidates);
  for (CandidateReport& report : scores->reports) {
    if (report.left_out.empty() && report.cost_usd > kept) {
      report.left_out = report.cost_usd > left ? kOverBudget : kOverMaxCost;
    }
  }
  limits->max_cost = kept;
  return absl::OkStatus();
}

absl::StatusOr<Decision> ScoredRoutingPolicy::Decide(const RouteFeatures& features,
                                                     std::span<const TargetSnapshot> targets) {
  const std::shared_ptr<const LoadedQuality> loaded = quality_.current();
  if (loaded == nullptr && !options_.router_file.empty()) return DecideStatic(features, targets);
  Scores scores = Score(features, targets, loaded.get());
  if (scores.candidates.empty()) {
    std::string why;
    bool too_long = !scores.reports.empty(), unable = too_long;
    for (const CandidateReport& report : scores.reports) {
      why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", report.target, report.left_out);
      too_long &= report.left_out.starts_with("its context");
      unable &= report.left_out == kUnable;
    }
    const std::string message = fmt::format("{}: no model can answer this ({})", name(), why);
    if (too_long) return absl::InvalidArgumentError(message);
    if (unable) return absl::FailedPreconditionError(message);
    return absl::UnavailableError(message);
  }
  Limits limits = Stricter(options_.limits, features.wish);
  const int64_t today = Today();
  const double left = budgets_.Left(features.wish.payer, today);
  const size_t before = scores.candidates.size();
  HOSTLER_RETURN_IF_ERROR(ApplyCostLimit(features, left, &limits, &scores));
  Choice choice = chooser_->Choose(features, limits, scores.candidates);

  Decision decision;
  const Candidate& chosen = scores.candidates[size_t(choice.order.front())];
  decision.target = chosen.target->name;
  for (size_t i = 1; i < choice.order.size(); ++i) {
    decision.fallbacks.push_back(scores.candidates[size_t(choice.order[i])].target->name);
  }
  decision.policy = name();
  decision.rule = choice.rule;
  decision.reason = fmt::format("{}: {}", name(), choice.reason);
  if (scores.candidates.size() < before && left <= *limits.max_cost) {
    decision.rule = "budget";
    decision.reason += fmt::format(", ${:.3g} left of the budget", left);
  }
  decision.judge = choice.judge;
  decision.candidates = std::move(scores.reports);
  if (loaded != nullptr) {
    decision.version = loaded->version;
    if (loaded->embeds) decision.embedding = features.embedding;
    if (!loaded->no_embedding.empty()) decision.embedding = EmbeddingUse::kNoEncoder;
    decision.embed_s = features.embed_s;
  }
  decision.wish = features.wish;
  decision.reserved_usd = chosen.cost_usd;
  decision.context = std::move(choice.context);
  decision.prefixes = features.prefixes;
  return decision;
}

void ScoredRoutingPolicy::Started(const Decision& decision) {
  budgets_.Reserve(decision.wish.payer, Today(), decision.reserved_usd);
  conversations_.Add(decision.prefixes, IndexOf(decision.target));
}

void ScoredRoutingPolicy::Finished(const Decision& decision, const RouteOutcome& outcome) {
  const double cost = std::isnan(outcome.cost_usd) ? decision.reserved_usd : outcome.cost_usd;
  budgets_.Settle(decision.wish.payer, Today(), decision.reserved_usd, cost);
  if (outcome.target != decision.target) {
    conversations_.Add(decision.prefixes, IndexOf(outcome.target));
  }
}

void ScoredRoutingPolicy::Learn(const Decision& decision, const std::string& target, double score) {
  const int index = IndexOf(target);
  if (index >= 0) chooser_->Learn(decision.context, index, score);
}

nlohmann::ordered_json ScoredRoutingPolicy::State() {
  nlohmann::ordered_json learned = nlohmann::ordered_json::object();
  for (size_t i = 0; i < options_.targets.size(); ++i) {
    nlohmann::ordered_json of_target = chooser_->Learned(int(i));
    if (!of_target.is_null()) learned[options_.targets[i].target] = std::move(of_target);
  }
  return {{"budgets", budgets_.State()}, {"learned", std::move(learned)}};
}

absl::Status ScoredRoutingPolicy::Restore(const nlohmann::ordered_json& state) {
  if (!state.is_object() || !state.contains("budgets") || !state.contains("learned") ||
      !state["learned"].is_object()) {
    return absl::InvalidArgumentError("it is no state of a virtual model");
  }
  HOSTLER_RETURN_IF_ERROR(budgets_.Restore(state["budgets"]));
  for (const auto& [target, learned] : state["learned"].items()) {
    const int index = IndexOf(target);
    if (index >= 0) HOSTLER_RETURN_IF_ERROR(chooser_->Restore(index, learned));
  }
  return absl::OkStatus();
}

}  // namespace hostler
