// Dispatch: carries a decision out: submits the request, turns to the fallbacks
// while the client has seen nothing, and judges cascades.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine/request.h"
#include "engine/engine/stream.h"
#include "router/policy.h"
#include "router/router.h"

namespace hostler {

// Bounds retries to a share of the requests, so that a failing target does not
// multiply the load on the others. Thread-safe.
class RetryBudget {
 public:
  // `share` of requests, and `reserve` retries at once: what runs when a target dies.
  explicit RetryBudget(double share = 0.2, double reserve = 256)
      : share_(share), reserve_(reserve), left_(reserve) {}
  void CountRequest();
  bool TakeRetry();  // false: none is left

 private:
  const double share_, reserve_;
  std::mutex mutex_;
  double left_;  // guarded by mutex_
};

// What dispatching counts. Since start.
struct DispatchStats {
  std::atomic<uint64_t> fallbacks{0};           // requests that went on to another target
  std::atomic<uint64_t> retries_refused{0};     // that the retry budget did not let
  std::atomic<uint64_t> cascades_kept{0};       // first answers that were good enough
  std::atomic<uint64_t> cascades_escalated{0};  // that were not
};

// A request under way, as the stream of its one consumer: see GenerateStream.
// Not thread-safe, but for OnReady's callback. What OnReady is given must not
// destroy this.
class RoutedStream {
 public:
  // Submits to the decision's target or, when that refuses, its fallbacks.
  // `router`, `retries` and `stats` must outlive the result. Errors: the last target's.
  static absl::StatusOr<std::unique_ptr<RoutedStream>> Start(const Router* router,
                                                             RetryBudget* retries,
                                                             DispatchStats* stats,
                                                             const Decision& decision,
                                                             GenerateRequest request);
  ~RoutedStream();
  RoutedStream(const RoutedStream&) = delete;
  RoutedStream& operator=(const RoutedStream&) = delete;

  bool TryPop(GenerateEvent* event);
  bool ended();
  void OnReady(std::function<void()> callback);
  void Cancel();

  // Of the target that answers. It changes until the first event was popped.
  const std::string& target() const { return attempts_.back().target; }
  const PromptInfo& prompt() const { return stream_->prompt(); }
  absl::Status status() const;
  Usage usage() const { return stream_->usage(); }
  Timings timings() const { return stream_->timings(); }

  // Once ended, or left: what came of it. The cost is that of all targets asked.
  RouteOutcome outcome() const;

 private:
  struct Attempt {
    std::string target;
    Usage seen;  // tokens popped, for a stream that was left before its end
    std::shared_ptr<GenerateStream> stream;
  };

  RoutedStream(const Router* router, RetryBudget* retries, DispatchStats* stats,
               const Decision& decision, GenerateRequest request);
  absl::Status Submit(bool judged);
  // Submits to the next target that takes the request. False: none does.
  bool SubmitNext(const absl::Status& why);
  bool FailOver();
  void Judge(GenerateEvent event);
  void Decide();
  void Keep();
  void StopJudging();
  bool judging() const { return judge_.has_value(); }

  const Router* const router_;
  RetryBudget* const retries_;
  DispatchStats* const stats_;
  const int n_;
  const bool client_wants_logprobs_;
  std::vector<std::string> next_;  // targets not asked yet, the next one last
  // Kept while another target may be asked; null: it is too late.
  std::unique_ptr<GenerateRequest> request_;
  std::vector<Attempt> attempts_;
  std::shared_ptr<GenerateStream> stream_;  // of the last attempt
  std::function<void()> on_ready_;
  bool cancelled_ = false;

  std::optional<CascadeJudge> judge_;  // while the first answer is judged
  bool strip_logprobs_ = false;        // they were asked for judging only
  std::vector<GenerateEvent> held_;    // events that the client may have later
  size_t held_first_ = 0;
  double logprob_sum_ = 0;
  int logprobs_ = 0;
  bool escalated_ = false;
};

}  // namespace hostler
