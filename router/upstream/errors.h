// What goes wrong at an upstream, as statuses for the router and for clients
// (see Target::Submit for what each code means to who decides).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "engine/base/json.h"
#include "router/upstream_stats.h"

namespace hostler {

// An answer whose HTTP status is not 200.
struct HttpFailure {
  int status = 0;
  std::string content_type;
  std::string body;  // its first part, if it is long
  std::optional<int> retry_after_s;
};

// JSON bodies of 4xx and 5xx go to the client unchanged, with their status; what
// is no JSON is told of in words. `own_key`: the key was ours and not the client's,
// so that 401 and 403 are no news for it.
absl::Status HttpError(const std::string& upstream, const HttpFailure& failure, bool own_key);

// Which failure HttpError's status is.
UpstreamFailure HttpFailureKind(int status);

// An error that stands in an answer's JSON: `error` is the member, `json` all.
absl::Status ReportedError(const std::string& upstream, const Json& error, std::string_view json);

// An answer that is none: Unavailable, HTTP 502.
absl::Status BadAnswer(const std::string& upstream, std::string_view what);

// Seconds of a Retry-After header: a number, or a date. nullopt: neither.
std::optional<int> ParseRetryAfter(std::string_view value);

}  // namespace hostler
