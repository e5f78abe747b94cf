// Decisions as JSON: for clients that ask for it, and for the decision log.
#pragma once

#include <string>

#include "engine/base/json.h"
#include "router/policy.h"

namespace hostler {

// {"model", "reason", "policy", "rule", "candidates": [{"model", "quality", …}], …};
// what is not known is null.
Json DecisionJson(const Decision& decision);

// {"model", "cost_usd", "fallbacks", …}.
Json OutcomeJson(const RouteOutcome& outcome);

// What a client gets that asked why: DecisionJson with "outcome".
std::string ExplanationText(const Decision& decision, const RouteOutcome& outcome);

}  // namespace hostler
