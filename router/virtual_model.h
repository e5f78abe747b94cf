// What a virtual model does beside its policy.
#pragma once

#include <optional>
#include <string>

namespace hostler {

// Requests that another target answers as well, for judging it offline.
struct ShadowOptions {
  double share = 0;     // of the requests
  std::string target;   // "": any that could have been chosen, by chance
  int concurrency = 2;  // shadows at a time
};

// A second target is asked when the first has no token after a while.
struct HedgeOptions {
  // Unset: the 95th percentile of the target's own waits for a first token.
  std::optional<double> after_s;
};

struct VirtualModelOptions {
  ShadowOptions shadow;
  std::optional<HedgeOptions> hedge;
};

}  // namespace hostler
