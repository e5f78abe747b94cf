#include "router/upstream/core.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "engine/base/status.h"
#include "engine/base/wire_error.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using std::chrono::steady_clock;

constexpr int kUnavailable = 503, kTooMany = 429;

absl::Status Refusal(absl::Status status, int http_status, double retry_after_s) {
  const int seconds = std::max(1, int(std::ceil(retry_after_s)));
  return WithWireError(std::move(status), {http_status, "", seconds});
}

double Cost(const Price& price, const Usage& usage) {
  return (price.input * usage.prompt_tokens + price.output * usage.completion_tokens) / 1e6;
}

}  // namespace

UpstreamCore::UpstreamCore(UpstreamOptions options, std::string key, const UpstreamUrl& url,
                           std::unique_ptr<net::ssl::context> tls, const IoExecutor& executor)
    : options_(std::move(options)),
      key_(std::move(key)),
      tls_(std::move(tls)),
      pool_(executor, url, tls_.get()),
      health_(options_.health) {}

absl::Status UpstreamCore::EjectedError(TimePoint now) const {
  const double seconds = health_.RetryAfter(now);
  if (health_.health(now) == Health::kThrottled) {
    return Refusal(absl::ResourceExhaustedError(
                       fmt::format("upstream \"{}\" asked to be left alone for {:.0f} s",
                                   options_.name, std::ceil(seconds))),
                   kTooMany, seconds);
  }
  const std::string more =
      seconds > 0 ? fmt::format("; it is tried again in {:.0f} s", std::ceil(seconds)) : "";
  return Refusal(absl::UnavailableError(fmt::format("upstream \"{}\" is not used, as it failed{}",
                                                    options_.name, more)),
                 kUnavailable, seconds);
}

absl::Status UpstreamCore::AdmitLocked(Entry* entry) {
  const auto now = steady_clock::now();
  const HealthTracker::Admission admission = health_.Admit(now);
  if (admission == HealthTracker::Admission::kNo) return EjectedError(now);
  entry->probe = admission == HealthTracker::Admission::kProbe;
  entry->standing = Standing::kRunning;
  ++running_;
  return absl::OkStatus();
}

absl::Status UpstreamCore::Enter(UpstreamTurn* turn) {
  std::lock_guard lock(mutex_);
  const auto refuse = [this](absl::Status status) {
    ++stats_.errors[size_t(UpstreamFailure::kRefused)];
    return status;
  };
  if (draining_) return refuse(absl::UnavailableError("the server is shutting down"));
  Entry entry;
  if (running_ < options_.max_concurrency) {
    if (absl::Status status = AdmitLocked(&entry); !status.ok()) return refuse(std::move(status));
  } else if (const auto now = steady_clock::now(); health_.RetryAfter(now) > 0) {
    return refuse(EjectedError(now));
  } else if (int(waiting_.size()) >= options_.max_queued) {
    return refuse(
        Refusal(absl::ResourceExhaustedError(fmt::format(
                    "upstream \"{}\" has {} requests under way and {} waiting, as many as it may",
                    options_.name, running_, waiting_.size())),
                kTooMany, 1));
  } else {
    waiting_.push_back(turn);
  }
  entries_.emplace(turn, std::move(entry));
  return absl::OkStatus();
}

UpstreamCore::Standing UpstreamCore::StandingOf(UpstreamTurn* turn, absl::Status* status) const {
  std::lock_guard lock(mutex_);
  const Entry& entry = entries_.at(turn);
  if (entry.standing == Standing::kStopped) *status = entry.status;
  return entry.standing;
}

// Who was waiting longest goes first; while it is ejected, all are told.
void UpstreamCore::GrantLocked() {
  while (!waiting_.empty() && running_ < options_.max_concurrency) {
    UpstreamTurn* turn = waiting_.front();
    waiting_.pop_front();
    Entry& entry = entries_.at(turn);
    if (absl::Status status = AdmitLocked(&entry); !status.ok()) {
      entry.standing = Standing::kStopped;
      entry.status = std::move(status);
    }
    turn->OnTurn();
  }
}

void UpstreamCore::Leave(UpstreamTurn* turn, const UpstreamOutcome& outcome) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(turn);
  const Entry entry = found->second;
  entries_.erase(found);
  std::erase(waiting_, turn);
  CountLocked(outcome);
  // A running one that was stopped was counted off there.
  if (entry.standing == Standing::kRunning) --running_;
  JudgeLocked(entry, outcome);
  GrantLocked();
  left_.notify_all();
}

void UpstreamCore::CountLocked(const UpstreamOutcome& outcome) {
  stats_.requests += outcome.sent;
  stats_.connections += outcome.connections;
  stats_.retries += outcome.retries;
  if (outcome.ok) {
    ++stats_.succeeded;
    stats_.total.Observe(outcome.total_s);
  } else {
    ++stats_.errors[size_t(outcome.failure)];
  }
  if (outcome.first_token_s > 0) stats_.first_token.Observe(outcome.first_token_s);
  stats_.prompt_tokens += outcome.usage.prompt_tokens;
  stats_.cached_prompt_tokens += outcome.usage.cached_prompt_tokens;
  stats_.completion_tokens += outcome.usage.completion_tokens;
  stats_.estimated_usages += outcome.ok && !outcome.usage_told;
  stats_.cost_usd += Cost(options_.price.value_or(Price{}), outcome.usage);
}

void UpstreamCore::JudgeLocked(const Entry& entry, const UpstreamOutcome& outcome) {
  const auto now = steady_clock::now();
  if (outcome.ok || outcome.failure == UpstreamFailure::kRequest) {
    health_.OnSuccess(now, entry.probe);
  } else if (outcome.failure == UpstreamFailure::kRefused ||
             outcome.failure == UpstreamFailure::kCancelled) {
    health_.OnNeutral(entry.probe);
  } else if (outcome.failure == UpstreamFailure::kRateLimit) {
    health_.OnThrottled(now, outcome.retry_after_s.value_or(0), entry.probe);
  } else {
    if (outcome.retry_after_s.has_value()) {
      health_.OnThrottled(now, *outcome.retry_after_s, /*probe=*/false);
    }
    health_.OnFailure(now, entry.probe);
  }
  ReportLocked(fmt::format("last failure: {}", UpstreamFailureName(outcome.failure)));
}

void UpstreamCore::OnCheck(bool ok, const std::string& what) {
  std::lock_guard lock(mutex_);
  ++stats_.checks;
  stats_.failed_checks += !ok;
  health_.OnCheck(steady_clock::now(), ok);
  ReportLocked("health check: " + what);
  if (ok) GrantLocked();
}

void UpstreamCore::ReportLocked(const std::string& why) {
  stats_.ejections = health_.ejections();
  const Health health = health_.health(steady_clock::now());
  const bool down = health == Health::kEjected || health == Health::kProbing;
  if (down == std::exchange(reported_down_, down) || options_.on_event == nullptr) return;
  options_.on_event(down ? fmt::format("upstream \"{}\" is ejected for {:.0f} s; {}", options_.name,
                                       std::ceil(health_.RetryAfter(steady_clock::now())), why)
                         : fmt::format("upstream \"{}\" is back", options_.name));
}

void UpstreamCore::Drain(int timeout_ms) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  const auto empty = [this] { return entries_.empty(); };
  if (left_.wait_for(lock, std::chrono::milliseconds(timeout_ms), empty)) return;
  waiting_.clear();
  for (auto& [turn, entry] : entries_) {
    if (entry.standing == Standing::kRunning) --running_;
    entry.standing = Standing::kStopped;
    entry.status = absl::UnavailableError("the server is shutting down");
    turn->OnTurn();
  }
  left_.wait(lock, empty);
}

bool UpstreamCore::draining() const {
  std::lock_guard lock(mutex_);
  return draining_;
}

TargetSnapshot UpstreamCore::snapshot() const {
  std::lock_guard lock(mutex_);
  const auto now = steady_clock::now();
  TargetSnapshot snapshot;
  snapshot.name = options_.name;
  snapshot.price = options_.price.value_or(Price{});
  snapshot.price_known = options_.price.has_value();
  snapshot.max_context = options_.max_context;
  snapshot.running = running_;
  snapshot.waiting = int(waiting_.size());
  snapshot.max_concurrency = options_.max_concurrency;
  snapshot.health = health_.health(now);
  snapshot.retry_after_s = health_.RetryAfter(now);
  snapshot.available = !draining_ && snapshot.retry_after_s == 0;
  return snapshot;
}

UpstreamStats UpstreamCore::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace hostler
