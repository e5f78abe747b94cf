// ShadowTraffic: requests that another target answers once more, unseen by the
// client, so that the targets' answers can be judged offline.
#pragma once

#include <condition_variable>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "router/dispatch.h"
#include "router/policy.h"
#include "server/route_book.h"

namespace hostler {

// A request whose real answer is over.
struct ShadowRequest {
  std::string id;  // the real one's
  Decision decision;
  GenerateRequest request;
  std::string prompt;  // RouteBook::PromptForLog's
  RouteOutcome outcome;
  std::string answer;  // as much as was kept; "": none
};

// Never in real traffic's way: a shadow is dropped when its target has other work,
// when too many run, or when the day's budget does not pay for it, and is cancelled
// when others come to its target (one of this machine) or wait for it. On one thread of its own,
// which begins with the first shadow. Thread-safe.
class ShadowTraffic {
 public:
  // Bytes kept of each answer.
  static constexpr size_t kMaxAnswer = 1 << 20;

  // All must outlive it.
  ShadowTraffic(const Router* router, RouteMetrics* metrics, RouteBook* book)
      : router_(router), metrics_(metrics), book_(book) {}
  ~ShadowTraffic();
  ShadowTraffic(const ShadowTraffic&) = delete;
  ShadowTraffic& operator=(const ShadowTraffic&) = delete;

  // Asks decision.shadow, or drops it.
  void Start(ShadowRequest shadow);
  // Cancels what runs; what comes from now on is dropped.
  void Stop();

 private:
  struct Running {
    std::string id;  // its own
    ShadowRequest shadow;
    std::unique_ptr<RoutedStream> stream;
    double reserved_usd = 0;
    int sequences = 1;
    std::string answer;
    bool yielded = false;  // cancelled for real traffic
  };

  // Takes a place among those that run. Otherwise: why not, for the metric.
  const char* TryBegin(const ShadowRequest& shadow, double cost_usd);
  void GiveUp(const ShadowRequest& shadow, double cost_usd);
  void Run();
  // True: it is over.
  bool Advance(Running* running);
  void Finish(Running* running);

  const Router* const router_;
  RouteMetrics* const metrics_;
  RouteBook* const book_;
  // A shadow asks one target, once.
  RetryBudget retries_{0, 0};
  DispatchStats stats_;
  Alarms alarms_;

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::map<std::string, int> running_;  // by virtual model
  std::vector<std::unique_ptr<Running>> arrived_;
  bool news_ = false;
  bool stopping_ = false, ending_ = false;
  std::thread thread_;
};

}  // namespace hostler
