// The calls about routing: who would answer, how good an answer was, which
// router file serves.
#pragma once

#include "absl/status/statusor.h"
#include "server/http/reply.h"
#include "server/openai/requests.h"
#include "server/service.h"

namespace hostler {

// Budgets are kept by the client's API key where it sends one, else by `user`.
void SetPayer(const HttpRequest& http, ApiRequest* request);

// POST /v1/route: a chat (`messages`) or completions (`prompt`) body; the answer
// is DecisionJson. Nothing runs. Errors: those of the request; the router's.
absl::StatusOr<std::string> ExplainRoute(Service* service, const HttpRequest& request);

// POST /v1/feedback: {"id": "chatcmpl-…", "score": 0 … 1}, or "good": true, or
// "bad": true. Errors: FieldErrors; NotFound.
absl::StatusOr<std::string> TakeFeedback(Service* service, const HttpRequest& request);

// POST /admin/router/reload {"virtual_model": NAME, "path": FILE} and
// /admin/router/rollback {"virtual_model": NAME}; each may be left out: all that
// have a router file, the file that is configured. The answer lists versions.
// Errors: NotFound; those of reading. What served before does so still then.
absl::StatusOr<std::string> ReloadRouters(Service* service, const HttpRequest& request);
absl::StatusOr<std::string> RollBackRouters(Service* service, const HttpRequest& request);

}  // namespace hostler
