// hostler:route_*: what routing decided and how that turned out.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "prometheus/metric_family.h"
#include "router/dispatch.h"
#include "router/policy.h"
#include "router/router.h"

namespace hostler {

// Thread-safe. Labels are names from the configuration and rules of policies,
// never a client's words.
class RouteMetrics {
 public:
  RouteMetrics();
  ~RouteMetrics();

  void CountDecision(const Decision& decision, double seconds);
  void CountFailed(const std::string& virtual_model, const absl::Status& status);
  // `decision` is over.
  void ObserveOutcome(const Decision& decision, const RouteOutcome& outcome);
  void ObserveFeedback(const Decision& decision, const std::string& target, double score);
  // A shadow's end: ok, failed, cancelled; or why there was none: busy, over_budget, refused,
  // same (its target has answered the client).
  void CountShadow(const std::string& target, const char* result);
  void AddShadowCost(const std::string& target, double usd);
  // Whether the file with what was spent and learned could be read, and written since.
  void SetStateOk(bool ok);
  // Read at each scrape; must outlive this.
  void SetDispatchStats(const DispatchStats* stats);

  // `router` (null: none) tells of router files.
  std::vector<prometheus::MetricFamily> Collect(const Router* router) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hostler
