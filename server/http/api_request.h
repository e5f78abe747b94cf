// From an HTTP request to what is asked of which kind of target.
#pragma once

#include "absl/status/statusor.h"
#include "router/router.h"
#include "server/http/reply.h"
#include "server/openai/requests.h"

namespace hostler {

enum class ApiEndpoint { kCompletions, kChat };

// Reads the body. Where it may go to an upstream, the requests keep it
// (GenerateRequest::original): a named upstream judges it alone; for a virtual
// model, what no engine here can do is noted (UpstreamBody::engine_error) and not
// refused yet. Errors: those of server/openai/requests.h.
absl::StatusOr<ApiRequest> ReadApiRequest(const Router& router, const HttpRequest& request,
                                          ApiEndpoint endpoint);

}  // namespace hostler
