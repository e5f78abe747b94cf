// The table of what the HTTP server answers.
#pragma once

#include <memory>
#include <variant>

#include "server/http/admin_access.h"
#include "server/http/generation.h"
#include "server/http/reply.h"
#include "server/service.h"

namespace hostler {

// An answer that is there, or one that is being made.
using Outcome = std::variant<Reply, std::unique_ptr<Generation>>;

// Answers one request. May take long (it tokenizes), so not for I/O threads.
// Thread-safe.
Outcome Dispatch(Service* service, AdminAccess admin, const HttpRequest& request);

}  // namespace hostler
