#include "server/route_report.h"

#include <cmath>

namespace hostler {
namespace {

Json NumberOrNull(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

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
          {"prompt_tokens", outcome.usage.prompt_tokens},
          {"completion_tokens", outcome.usage.completion_tokens},
          {"cost_usd", NumberOrNull(outcome.cost_usd)},
          {"first_token_s", outcome.timings.first_token_ms / 1000},
          {"latency_s", outcome.timings.total_ms / 1000}};
}

}  // namespace hostler
