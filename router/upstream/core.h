// UpstreamCore: what the requests to one upstream share: who may go, how it
// fares, its connections.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "router/target.h"
#include "router/upstream/health.h"
#include "router/upstream/link_pool.h"
#include "router/upstream/options.h"

namespace hostler {

// A request in the queue and after.
class UpstreamTurn {
 public:
  virtual ~UpstreamTurn() = default;
  // Any thread, under the core's lock: it may not block or call back. Its turn has
  // come, or it must end: Standing() tells.
  virtual void OnTurn() = 0;
};

// How a request went.
struct UpstreamOutcome {
  bool sent = false;
  bool ok = false;
  UpstreamFailure failure = UpstreamFailure::kRefused;  // unless ok
  std::optional<int> retry_after_s;
  int connections = 0, retries = 0;
  Usage usage;  // counted, and paid for, if the request was sent
  bool usage_told = false;
  double first_token_s = 0;  // from sending; 0: there was none
  double total_s = 0;
};

// Thread-safe, but for pool().
class UpstreamCore {
 public:
  using TimePoint = HealthTracker::TimePoint;

  // `tls` is empty for plain TCP.
  UpstreamCore(UpstreamOptions options, std::string key, const UpstreamUrl& url,
               std::unique_ptr<net::ssl::context> tls, const IoExecutor& executor);

  // Takes `turn` in, to run or to wait. Errors: Unavailable, ResourceExhausted.
  absl::Status Enter(UpstreamTurn* turn);
  enum class Standing { kWaiting, kRunning, kStopped };
  // kRunning: it may send. `status` is why not, for kStopped.
  Standing StandingOf(UpstreamTurn* turn, absl::Status* status) const;
  // Once for each that was taken in; `turn` may be gone after.
  void Leave(UpstreamTurn* turn, const UpstreamOutcome& outcome);

  void OnCheck(bool ok, const std::string& what);

  // Takes no more; waits for those there are, at most this long, then stops
  // them and waits until they have left.
  void Drain(int timeout_ms);
  bool draining() const;

  TargetSnapshot snapshot() const;
  UpstreamStats stats() const;

  const UpstreamOptions& options() const { return options_; }
  const std::string& key() const { return key_; }
  // The I/O thread's.
  LinkPool& pool() { return pool_; }

 private:
  struct Entry {
    Standing standing = Standing::kWaiting;
    bool probe = false;
    absl::Status status;  // of kStopped
  };

  // With mutex_ held.
  absl::Status AdmitLocked(Entry* entry);
  void GrantLocked();
  void JudgeLocked(const Entry& entry, const UpstreamOutcome& outcome);
  absl::Status EjectedError(TimePoint now) const;
  void ReportLocked(const std::string& why);
  void CountLocked(const UpstreamOutcome& outcome);

  const UpstreamOptions options_;
  const std::string key_;
  const std::unique_ptr<net::ssl::context> tls_;
  LinkPool pool_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable left_;
  HealthTracker health_;
  UpstreamStats stats_;
  std::unordered_map<UpstreamTurn*, Entry> entries_;
  std::deque<UpstreamTurn*> waiting_;
  int running_ = 0;
  bool draining_ = false;
  bool reported_down_ = false;
};

}  // namespace hostler
