#include "router/dispatch.h"

#include <algorithm>
#include <utility>

#include "fmt/format.h"

namespace hostler {
namespace {

// Whether another target may do better; see Target::Submit.
bool MayBeRetried(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return false;
    default:
      return true;
  }
}

}  // namespace

void RetryBudget::CountRequest() {
  std::lock_guard lock(mutex_);
  left_ = std::min(reserve_, left_ + share_);
}

bool RetryBudget::TakeRetry() {
  std::lock_guard lock(mutex_);
  if (left_ < 1) return false;
  left_ -= 1;
  return true;
}

RoutedStream::RoutedStream(const Router* router, RetryBudget* retries, DispatchStats* stats,
                           const Decision& decision, GenerateRequest request)
    : router_(router),
      retries_(retries),
      stats_(stats),
      n_(std::max(request.n, 1)),
      client_wants_logprobs_(request.logprobs.has_value()),
      next_(decision.fallbacks.rbegin(), decision.fallbacks.rend()),
      request_(std::make_unique<GenerateRequest>(std::move(request))),
      judge_(decision.judge) {
  next_.push_back(decision.target);
}

absl::StatusOr<std::unique_ptr<RoutedStream>> RoutedStream::Start(const Router* router,
                                                                  RetryBudget* retries,
                                                                  DispatchStats* stats,
                                                                  const Decision& decision,
                                                                  GenerateRequest request) {
  retries->CountRequest();
  std::unique_ptr<RoutedStream> routed(
      new RoutedStream(router, retries, stats, decision, std::move(request)));
  absl::Status status = routed->Submit(decision.judge.has_value());
  while (!status.ok()) {
    if (!MayBeRetried(status) || routed->next_.empty()) return status;
    if (!retries->TakeRetry()) {
      ++stats->retries_refused;
      return status;
    }
    ++stats->fallbacks;
    routed->StopJudging();
    status = routed->Submit(false);
  }
  return routed;
}

RoutedStream::~RoutedStream() {
  if (stream_ == nullptr) return;
  stream_->OnReady(nullptr);
  if (!stream_->ended()) stream_->Cancel();
}

// To the next target of next_, which is taken off.
absl::Status RoutedStream::Submit(bool judged) {
  const std::string name = std::move(next_.back());
  next_.pop_back();
  Target* target = router_->Find(name);
  if (target == nullptr) {
    return absl::InternalError(fmt::format("the decision names \"{}\", which is no target", name));
  }
  GenerateRequest request;
  if (next_.empty()) {
    request = std::move(*request_);
    request_.reset();
  } else {
    request = *request_;
  }
  if (judged && !client_wants_logprobs_) {
    request.logprobs = 0;
    strip_logprobs_ = true;
  }
  absl::StatusOr<std::shared_ptr<GenerateStream>> stream = target->Submit(std::move(request));
  if (!stream.ok()) return stream.status();
  if (stream_ != nullptr) stream_->OnReady(nullptr);
  stream_ = *std::move(stream);
  attempts_.push_back({name, {}, stream_});
  if (on_ready_ != nullptr) stream_->OnReady(on_ready_);
  return absl::OkStatus();
}

bool RoutedStream::SubmitNext(const absl::Status& why) {
  if (request_ == nullptr || cancelled_ || !MayBeRetried(why)) return false;
  while (!next_.empty()) {
    if (!retries_->TakeRetry()) {
      ++stats_->retries_refused;
      return false;
    }
    if (Submit(false).ok()) {
      ++stats_->fallbacks;
      return true;
    }
  }
  return false;
}

// The stream has ended and the client saw nothing of it.
bool RoutedStream::FailOver() {
  const absl::Status why = stream_->status();
  if (why.ok()) return false;
  if (!SubmitNext(why)) return false;
  StopJudging();
  held_.clear();
  held_first_ = 0;
  return true;
}

void RoutedStream::StopJudging() {
  judge_.reset();
  strip_logprobs_ = false;
}

void RoutedStream::Keep() {
  ++stats_->cascades_kept;
  judge_.reset();
}

// The first answer's tokens have been seen, or all there are.
void RoutedStream::Decide() {
  const double mean = logprobs_ > 0 ? logprob_sum_ / logprobs_ : -INFINITY;
  if (mean >= judge_->min_logprob || request_ == nullptr || next_.empty()) return Keep();
  const std::shared_ptr<GenerateStream> first = stream_;
  // Nobody better takes it: better this answer than none.
  if (!Submit(false).ok()) return Keep();
  first->Cancel();
  ++stats_->cascades_escalated;
  escalated_ = true;
  StopJudging();
  held_.clear();
  held_first_ = 0;
}

void RoutedStream::Judge(GenerateEvent event) {
  for (const PositionLogprobs& position : event.logprobs) {
    logprob_sum_ += position.chosen.logprob;
    ++logprobs_;
  }
  const bool last = event.finish_reason.has_value();
  held_.push_back(std::move(event));
  if (last || logprobs_ >= judge_->tokens) Decide();
}

bool RoutedStream::TryPop(GenerateEvent* event) {
  for (;;) {
    if (!judging() && held_first_ < held_.size()) {
      *event = std::move(held_[held_first_++]);
    } else if (stream_->TryPop(event)) {
      Usage& seen = attempts_.back().seen;
      seen.completion_tokens += static_cast<int>(event->token_ids.size()) + event->unnamed_tokens;
      if (judging()) {
        Judge(std::move(*event));
        *event = GenerateEvent();
        continue;
      }
    } else {
      if (!stream_->ended()) return false;
      if (request_ != nullptr && FailOver()) continue;
      if (!judging()) return false;
      // It ended without a last event.
      Keep();
      continue;
    }
    if (strip_logprobs_) event->logprobs.clear();
    // From here on nobody else may answer.
    request_.reset();
    return true;
  }
}

bool RoutedStream::ended() {
  if (judging() || held_first_ < held_.size() || !stream_->ended()) return false;
  return request_ == nullptr || !FailOver();
}

void RoutedStream::OnReady(std::function<void()> callback) {
  on_ready_ = std::move(callback);
  const std::shared_ptr<GenerateStream> stream = stream_;
  stream->OnReady(on_ready_);
}

void RoutedStream::Cancel() {
  cancelled_ = true;
  held_.clear();
  held_first_ = 0;
  stream_->Cancel();
}

absl::Status RoutedStream::status() const { return stream_->status(); }

RouteOutcome RoutedStream::outcome() const {
  RouteOutcome outcome;
  outcome.target = target();
  outcome.fallbacks = static_cast<int>(attempts_.size()) - 1;
  outcome.escalated = escalated_;
  outcome.status =
      stream_->ended() ? stream_->status() : absl::CancelledError("left by its client");
  outcome.cost_usd = 0;
  for (const Attempt& attempt : attempts_) {
    Usage usage = attempt.seen;
    Timings timings;
    if (attempt.stream->ended()) {
      timings = attempt.stream->timings();
      if (attempt.stream->status().ok()) usage = attempt.stream->usage();
    }
    if (usage.prompt_tokens == 0 && usage.completion_tokens > 0) {
      usage.prompt_tokens = static_cast<int>(attempt.stream->prompt().token_ids.size());
    }
    const TargetSnapshot snapshot = router_->Find(attempt.target)->snapshot();
    const double seconds =
        std::max(timings.total_ms - timings.queued_ms, 0.0) / 1000 / (snapshot.running + 1);
    outcome.cost_usd +=
        CostUsd(snapshot.price, usage.prompt_tokens, usage.completion_tokens, seconds);
    outcome.usage = usage;
    outcome.timings = timings;
  }
  return outcome;
}

}  // namespace hostler
