#include "router/upstream_stats.h"

#include <algorithm>

namespace hostler {

void UpstreamLatency::Observe(double seconds) {
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), seconds);
  ++counts[size_t(bound - kBounds.begin())];
  sum += seconds;
}

const char* UpstreamFailureName(UpstreamFailure failure) {
  constexpr std::array<const char*, kUpstreamFailures> kNames = {
      "connect", "timeout",  "credentials", "rate_limit", "request",
      "server",  "protocol", "truncated",   "refused",    "cancelled"};
  return kNames[size_t(failure)];
}

}  // namespace hostler
