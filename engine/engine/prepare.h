// From a GenerateRequest to what the loop needs: prompt ids, limits, sampling
// rule, all checked.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine/request.h"
#include "engine/engine/sampler.h"
#include "engine/engine/sequence.h"
#include "engine/model/loader.h"

namespace hostler {

// The prompt's ids. Errors: FieldErrors on prompt, messages, tools.
absl::StatusOr<std::vector<int32_t>> TokenizePrompt(const LoadedModel& model,
                                                    const GenerateRequest& request);

// The request's sequences, ready to be queued, with their common RequestState
// (which still lacks its stream). `max_context` bounds prompt and output
// together; a larger max_tokens is cut to it. Errors: FieldErrors.
absl::StatusOr<std::vector<std::unique_ptr<Sequence>>> PrepareSequences(const LoadedModel& model,
                                                                        int max_context,
                                                                        GenerateRequest request);

}  // namespace hostler
