// How a router does on a set of outcomes, as `hostler route eval` tells it.
#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "router/quality/evaluation.h"
#include "router/quality/predictor.h"
#include "router/quality/routing_data.h"

namespace hostler {

// Fills in the predictions for the set's models. Errors: FailedPrecondition
// naming a model of the set that the router does not know.
absl::StatusOr<RouteTable> PredictSet(const QualityPredictor& predictor, const RoutingSet& set);

// True costs and qualities alone.
RouteTable TrueTable(const RoutingSet& set);

// {"set", "rows", "models", "brier", "ece", with two models "apgr", "auc",
// "cpt50", "cpt80", "f95", with prices "aiq", "aiq_code", "lead",
// "oracle_share", "cost_to_match"}, "…_interval" of apgr, or of aiq and lead,
// when `resamples` > 0. The strong one of two models is the one that is better in
// `train`. "hull" is [[USD a query, quality]…].
nlohmann::ordered_json JudgeSet(const RoutingSet& set, const RouteTable& table,
                                const SingleModels& train, int resamples);

// A table for people.
std::string JudgementText(const nlohmann::ordered_json& judgements);

// The hulls, one panel a set.
std::string JudgementSvg(const nlohmann::ordered_json& judgements);

}  // namespace hostler
