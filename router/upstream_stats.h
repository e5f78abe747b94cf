// What an upstream target counts, for metrics.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace hostler {

// Seconds, counted by upper bound. (The histogram of cache/latency.h ends at 2 s.)
struct UpstreamLatency {
  static constexpr std::array<double, 14> kBounds = {.01, .025, .05, .1, .25, .5,  1,
                                                     2.5, 5,    10,  25, 60,  150, 600};
  std::array<uint64_t, kBounds.size() + 1> counts = {};  // the last: above every bound
  double sum = 0;

  void Observe(double seconds);
};

// Why a request to an upstream failed, by its place in UpstreamStats::errors.
enum class UpstreamFailure {
  kConnect,      // no connection: name, TCP, TLS
  kTimeout,      // connect, first token, between events, whole answer
  kCredentials,  // HTTP 401, 403
  kRateLimit,    // HTTP 429
  kRequest,      // the other 4xx: the client's fault
  kServer,       // HTTP 5xx, 3xx, or an error inside a stream
  kProtocol,     // an answer that is none: HTML, broken JSON, too large
  kTruncated,    // an answer that ended too early
  kRefused,      // never sent: queue full, ejected, waited too long
  kCancelled,    // the client has gone
};
inline constexpr size_t kUpstreamFailures = 10;
// "connect", "timeout", ...
const char* UpstreamFailureName(UpstreamFailure failure);

// Since start, but for the gauges.
struct UpstreamStats {
  uint64_t requests = 0;  // that were sent
  uint64_t succeeded = 0;
  std::array<uint64_t, kUpstreamFailures> errors = {};
  uint64_t connections = 0;  // opened
  uint64_t retries = 0;      // sent anew, as a kept connection had been closed
  uint64_t ejections = 0;
  uint64_t checks = 0, failed_checks = 0;
  uint64_t prompt_tokens = 0, cached_prompt_tokens = 0, completion_tokens = 0;
  uint64_t estimated_usages = 0;  // requests whose usage the upstream did not tell
  double cost_usd = 0;
  UpstreamLatency first_token;  // from sending to the first token
  UpstreamLatency total;        // from sending to the end; successful ones
};

}  // namespace hostler
