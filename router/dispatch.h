// Dispatch: carries a decision out: submits the request, turns to the fallbacks
// while the client has seen nothing, judges cascades, and hedges.
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
#include "router/alarms.h"
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
  // A second target was asked beside the first, and: it answered; the first did; it failed.
  std::atomic<uint64_t> hedges_won{0}, hedges_lost{0}, hedges_failed{0};
  std::atomic<uint64_t> hedges_refused{0};  // that the retry budget did not let
};

// What dispatching works with; all must outlive the streams.
struct DispatchTools {
  const Router* router = nullptr;
  RetryBudget* retries = nullptr;
  DispatchStats* stats = nullptr;
  Alarms* alarms = nullptr;
};

// A request under way, as the stream of its one consumer: see GenerateStream.
// Not thread-safe, but for OnReady's callback. What OnReady is given must not
// destroy this.
class RoutedStream {
 public:
  using Clock = std::chrono::steady_clock;

  // Submits to the decision's target or, when that refuses, its fallbacks.
  // Errors: the last target's.
  static absl::StatusOr<std::unique_ptr<RoutedStream>> Start(const DispatchTools& tools,
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

  // While it is open who answers: the first target, or a second one that is asked
  // when it is late. What they say before a first token is kept.
  struct Race {
    std::optional<Clock::time_point> begin;  // of the first's wait; unset: it is no more
    Clock::time_point at;                    // when the second is asked
    uint64_t alarm = 0;
    bool asked = false;  // the second, or it was tried
    std::shared_ptr<GenerateStream> second;
    std::vector<GenerateEvent> first_held, second_held;
  };

  RoutedStream(const DispatchTools& tools, const Decision& decision, GenerateRequest request);
  absl::StatusOr<std::shared_ptr<GenerateStream>> Ask(bool judged);
  absl::Status Submit(bool judged);
  void StartRace(double after_s);
  bool DecideRace();
  void EndRace(bool second_won);
  void AskSecond();
  bool DrainRacer(GenerateStream* stream, Attempt* attempt, std::vector<GenerateEvent>* held);
  bool DueForHedge() const;
  void ObserveWait(const std::string& target);
  // Submits to the next target that takes the request. False: none does.
  bool SubmitNext(const absl::Status& why);
  bool FailOver();
  void Judge(GenerateEvent event);
  void Decide();
  void Keep();
  void StopJudging();
  bool judging() const { return judge_.has_value(); }

  const DispatchTools tools_;
  const bool client_wants_logprobs_;
  std::vector<std::string> next_;  // targets not asked yet, the next one last
  // Kept while another target may be asked; null: it is too late.
  std::unique_ptr<GenerateRequest> request_;
  std::vector<Attempt> attempts_;
  std::shared_ptr<GenerateStream> stream_;  // of the last attempt
  std::recursive_mutex ready_mutex_;        // held while the alarm calls on_ready_
  std::function<void()> on_ready_;          // guarded by ready_mutex_
  bool cancelled_ = false;
  std::unique_ptr<Race> race_;  // null: it is decided
  bool hedged_ = false;
  int prompt_tokens_ = 0;  // about; a virtual model's

  std::optional<CascadeJudge> judge_;  // while the first answer is judged
  bool strip_logprobs_ = false;        // they were asked for judging only
  std::vector<GenerateEvent> held_;    // events that the client may have later
  size_t held_first_ = 0;
  double logprob_sum_ = 0;
  int logprobs_ = 0;
  bool escalated_ = false;
};

}  // namespace hostler
