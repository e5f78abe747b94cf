// RoutingPolicy: which target answers a request to a virtual model.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "router/target.h"

namespace hostler {

// What of a request a policy looks at.
struct RouteFeatures {
  int prompt_tokens = 0;
  bool prompt_tokens_estimated = false;  // from the text's length
  int max_tokens = 0;                    // 0: not given
};

struct Decision {
  std::string target;
  // In words, short enough for a header: "explicit", or
  // "static: 37 prompt tokens <= 200, cheapest of 2".
  std::string reason;
};

// A pure function of what it is given; thread-safe.
class RoutingPolicy {
 public:
  virtual ~RoutingPolicy() = default;
  virtual std::string_view name() const = 0;
  // Errors: Unavailable or InvalidArgument, saying why no target will do.
  virtual absl::StatusOr<Decision> Decide(const RouteFeatures& features,
                                          std::span<const TargetSnapshot> targets) const = 0;
};

// One line of a static policy's table.
struct StaticRule {
  std::string target;
  int max_prompt_tokens = 0;  // 0: any length
};

// The cheapest (by input + output price; equal: the first listed) target whose
// rule takes a prompt of this length and whose context holds it. Without rules
// every target takes any length.
std::unique_ptr<RoutingPolicy> NewStaticPolicy(std::vector<StaticRule> rules);

}  // namespace hostler
