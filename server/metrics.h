// Prometheus metrics. Names and labels follow vLLM's ("vllm:x" is "hostler:x"),
// so that its dashboards work, and add the cache's and the router's.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engine/engine/request.h"
#include "router/router.h"
#include "server/route_metrics.h"

namespace hostler {

// Thread-safe.
class Metrics {
 public:
  // Engine gauges and counters are read from `router`'s targets at each
  // scrape; it must outlive the metrics. Null: none (tests).
  explicit Metrics(const Router* router);
  ~Metrics();

  // Of one request, by the model that answers it.
  void ObserveFirstToken(const std::string& model, double seconds);
  void ObserveInterToken(const std::string& model, double seconds, int tokens);
  // When it is over; `finish_reason` as in the API ("stop", "length", "abort", "error").
  void ObserveFinished(const std::string& model, const std::string& finish_reason,
                       const Usage& usage, const Timings& timings);
  void CountRefused(const std::string& model, const absl::Status& status);
  RouteMetrics& routes() { return routes_; }
  void SetHttpConnections(int open);

  // The exposition format's text, for GET /metrics.
  std::string Expose() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  RouteMetrics routes_;
};

}  // namespace hostler
