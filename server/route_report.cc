#include "server/route_report.h"

#include "server/json_number.h"

namespace hostler {
namespace {

Json CandidateJson(const CandidateReport& candidate) {
  Json json = {{"model", candidate.target},
               {"quality", NumberOrNull(candidate.quality)},
               {"output_tokens", NumberOrNull(candidate.output_tokens)},
               {"cost_usd", NumberOrNull(candidate.cost_usd)},
               {"first_token_s", NumberOrNull(candidate.first_token_s)},
               {"latency_s", NumberOrNull(candidate.latency_s)},
               {"cached_tokens", candidate.cached_tokens}};
  if (!candidate.left_out.empty()) json["left_out"] = candidate.left_out;
  return json;
}

// The client's own bounds.
Json WishJson(const RouteWish& wish) {
  Json json = Json::object();
  if (wish.min_quality.has_value()) json["min_quality"] = *wish.min_quality;
  if (wish.max_cost.has_value()) json["max_cost"] = *wish.max_cost;
  if (wish.deadline_s.has_value()) json["deadline_ms"] = *wish.deadline_s * 1000;
  return json;
}

}  // namespace

Json DecisionJson(const Decision& decision) {
  Json json = {{"model", decision.target}, {"reason", decision.reason}};
  if (decision.virtual_model.empty()) return json;
  json["virtual_model"] = decision.virtual_model;
  json["policy"] = decision.policy;
  json["rule"] = decision.rule;
  json["router_version"] = decision.version;
  if (decision.embedding != EmbeddingUse::kNone) {
    json["embedding"] = EmbeddingUseName(decision.embedding);
  }
  json["fallbacks"] = decision.fallbacks;
  if (decision.judge.has_value()) {
    json["judge"] = {{"min_logprob", decision.judge->min_logprob},
                     {"tokens", decision.judge->tokens}};
  }
  if (const Json wish = WishJson(decision.wish); !wish.empty()) json["wish"] = wish;
  if (decision.hedge_after_s.has_value()) {
    json["hedge_after_s"] = NumberOrNull(*decision.hedge_after_s);
  }
  if (!decision.shadow.empty()) json["shadow"] = decision.shadow;
  json["candidates"] = Json::array();
  for (const CandidateReport& candidate : decision.candidates) {
    json["candidates"].push_back(CandidateJson(candidate));
  }
  return json;
}

Json OutcomeJson(const RouteOutcome& outcome) {
  return {{"model", outcome.target},
          {"ok", outcome.status.ok()},
          {"fallbacks", outcome.fallbacks},
          {"escalated", outcome.escalated},
          {"hedged", outcome.hedged},
          {"prompt_tokens", outcome.usage.prompt_tokens},
          {"completion_tokens", outcome.usage.completion_tokens},
          {"cost_usd", NumberOrNull(outcome.cost_usd)},
          {"first_token_s", outcome.timings.first_token_ms / 1000},
          {"latency_s", outcome.timings.total_ms / 1000}};
}

std::string ExplanationText(const Decision& decision, const RouteOutcome& outcome) {
  Json json = DecisionJson(decision);
  json["outcome"] = OutcomeJson(outcome);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace hostler
