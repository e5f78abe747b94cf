// The decision log (`route_log`) read back.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "router/policy.h"

namespace hostler {

struct LoggedDecision {
  double time = 0;  // Unix seconds, when the answer was over
  std::string id;
  std::string prompt;  // "": the log has no texts
  Decision decision;
  RouteOutcome outcome;  // of its status the log tells only whether it is OK
};

// A judged answer.
struct LoggedFeedback {
  double time = 0;
  std::string id;
  std::string target;  // that answered
  double score = 0;    // 0 … 1
};

// An answer that no client saw.
struct LoggedShadow {
  std::string id;
  std::string real_id;  // of the decision
  RouteOutcome outcome;
};

struct RouteLog {
  std::vector<LoggedDecision> decisions;
  std::vector<LoggedFeedback> feedback;
  std::vector<LoggedShadow> shadows;
  // The last line was not whole: it was being written, or the disk was full.
  bool truncated = false;
  int skipped = 0;  // other lines that were none
};

// Errors: NotFound, Unavailable for a file that cannot be read; InvalidArgument
// "FILE:LINE: …" for what RouteBook would not have written, unless `skip_bad`.
absl::StatusOr<RouteLog> ReadRouteLog(const std::string& path, bool skip_bad);

}  // namespace hostler
