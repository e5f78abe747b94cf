// What a policy looks at, taken from a request.
#pragma once

#include <string>

#include "engine/engine/request.h"
#include "router/policy.h"

namespace hostler {

// Cheap: token ids are counted, text is not tokenized but taken as one token
// for four bytes (prompt_tokens_estimated then says so).
// The features may look into `request` and `storage`.
RouteFeatures ExtractFeatures(const GenerateRequest& request, std::string* storage);

// RouteFeatures::prompt_tokens alone.
int EstimatePromptTokens(const GenerateRequest& request);

}  // namespace hostler
