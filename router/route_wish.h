// RouteWish: what a client says about the routing of one request.
#pragma once

#include <cstdint>
#include <optional>

namespace hostler {

struct RouteWish {
  bool explain = false;  // the answer tells why it was routed so
  bool in_body = false;  // it is said in the body, which upstreams should not see
  // Who pays, for budgets: a hash of the client's API key, else of its `user`;
  // 0: nobody said. Never the key itself.
  uint64_t payer = 0;
  // Bounds of this request; they win over the virtual model's where they are
  // stricter.
  std::optional<double> min_quality;  // 0 … 1
  std::optional<double> max_cost;     // USD
  std::optional<double> deadline_s;   // from arrival to the end of the answer
};

}  // namespace hostler
