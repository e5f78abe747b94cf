// Errors that came from another server and go to the client as they are.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"

namespace hostler {

// Rides on a Status.
struct WireError {
  int http_status = 0;               // what the client is answered; 0: the status code's own
  std::string body;                  // JSON; "": the Status as OpenAI's error object
  std::optional<int> retry_after_s;  // Retry-After, seconds
};

// `status` with `error` on it. REQUIRES: !status.ok().
absl::Status WithWireError(absl::Status status, const WireError& error);
// What rides on `status`; nullopt for most.
std::optional<WireError> FindWireError(const absl::Status& status);
// When to come back: seconds; 0 when `status` does not tell.
int RetryAfterSeconds(const absl::Status& status);

}  // namespace hostler
