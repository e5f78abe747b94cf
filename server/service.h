// Service: where the HTTP and gRPC front ends meet. It routes a request,
// starts it, and sees to its metrics and its log line.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine/request.h"
#include "engine/engine/stream.h"
#include "router/dispatch.h"
#include "router/router.h"
#include "server/metrics.h"
#include "server/request_log.h"
#include "server/route_book.h"
#include "server/shadow_traffic.h"

namespace hostler {

// How a request came in; for the log and the metrics' labels.
struct CallInfo {
  std::string transport;  // "http" or "grpc"
  std::string endpoint;   // "/v1/chat/completions", "Generate"
  std::string peer;       // address and port
};

class Service;

// One request being answered. Used by the one consumer that the front end has
// for it; it may be destroyed at any time, which cancels what still runs.
class Call {
 public:
  // `prompt` is for the decision log. `shadow` (null: none) is what decision.shadow is asked.
  Call(GenerateRequest request_summary, Decision decision, std::unique_ptr<RoutedStream> stream,
       CallInfo info, std::string prompt, std::unique_ptr<GenerateRequest> shadow,
       Service* service);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // As GenerateStream's, and takes note of the times.
  bool TryPop(GenerateEvent* event);
  bool ended();
  void OnReady(std::function<void()> callback);  // see GenerateStream::OnReady
  void Cancel();

  const std::string& id() const { return id_; }
  const Decision& decision() const { return decision_; }
  // Who answers: the decision's target, or another if that failed or was not
  // good enough. Final once an event was popped.
  const std::string& target() const { return stream_->target(); }
  RouteOutcome outcome() const { return stream_->outcome(); }  // once ended
  const PromptInfo& prompt() const { return stream_->prompt(); }
  absl::Status status() const { return stream_->status(); }  // once ended
  Usage usage() const { return stream_->usage(); }           // once ended
  Timings timings() const { return stream_->timings(); }     // once ended

 private:
  void Account();  // metrics and log line, once

  std::string id_;
  Decision decision_;
  std::unique_ptr<RoutedStream> stream_;
  CallInfo info_;
  std::string prompt_;
  std::unique_ptr<GenerateRequest> shadow_;
  std::string answer_;  // kept for its shadow only
  bool keep_answer_;
  Service* service_;
  RequestRecord record_;
  std::chrono::steady_clock::time_point arrival_;
  std::vector<std::optional<std::chrono::steady_clock::time_point>> last_token_;  // [n]
  bool accounted_ = false;
};

// Thread-safe. `router`, `metrics` and `log` must outlive it.
class Service {
 public:
  Service(Router* router, Metrics* metrics, RequestLog* log);

  // Routes and submits. A refused request is counted and logged as well.
  // Errors: the router's and the engine's.
  absl::StatusOr<std::unique_ptr<Call>> Start(GenerateRequest request, const CallInfo& info);

  // Whom Start would choose, without starting anything. Errors: the router's.
  absl::StatusOr<Decision> Explain(const GenerateRequest& request) const;

  // For a request that a front end could not make a GenerateRequest of: counts
  // and logs it as a refused one.
  void CountMalformed(const absl::Status& status, const CallInfo& info);

  // The engine that would answer for `model`, for tokenizing; an explicit name
  // or "". Errors: NotFound, Unimplemented for a target without an engine here.
  absl::StatusOr<Engine*> EngineFor(const std::string& model) const;

  // "chatcmpl-", "cmpl-", … and 24 random hex digits.
  static std::string NewId(const std::string& prefix);

  Router& router() const { return *router_; }
  Metrics& metrics() const { return *metrics_; }
  RouteBook& routes() { return routes_; }
  // False once draining: /health then answers 503.
  bool ready() const;
  // Shadow traffic is cancelled at once.
  void SetDraining();

 private:
  friend class Call;
  void LogRefused(RequestRecord record, const absl::Status& status,
                  std::chrono::steady_clock::time_point arrival);

  Router* router_;
  Metrics* metrics_;
  RequestLog* log_;
  RetryBudget retries_;
  DispatchStats dispatch_stats_;
  Alarms alarms_;
  RouteBook routes_;
  ShadowTraffic shadows_;
  std::atomic<bool> draining_{false};
};

}  // namespace hostler
