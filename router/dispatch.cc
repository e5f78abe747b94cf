#include "router/dispatch.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/features.h"

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

RoutedStream::RoutedStream(const DispatchTools& tools, const Decision& decision,
                           GenerateRequest request)
    : tools_(tools),
      client_wants_logprobs_(request.logprobs.has_value()),
      next_(decision.fallbacks.rbegin(), decision.fallbacks.rend()),
      request_(std::make_unique<GenerateRequest>(std::move(request))),
      judge_(decision.judge) {
  if (!decision.virtual_model.empty()) prompt_tokens_ = EstimatePromptTokens(*request_);
  next_.push_back(decision.target);
}

absl::StatusOr<std::unique_ptr<RoutedStream>> RoutedStream::Start(const DispatchTools& tools,
                                                                  const Decision& decision,
                                                                  GenerateRequest request) {
  tools.retries->CountRequest();
  std::unique_ptr<RoutedStream> routed(new RoutedStream(tools, decision, std::move(request)));
  absl::Status status = routed->Submit(decision.judge.has_value());
  while (!status.ok()) {
    if (!MayBeRetried(status) || routed->next_.empty()) return status;
    if (!tools.retries->TakeRetry()) {
      ++tools.stats->retries_refused;
      return status;
    }
    ++tools.stats->fallbacks;
    routed->StopJudging();
    status = routed->Submit(false);
  }
  if (decision.hedge_after_s.has_value() && routed->target() == decision.target) {
    routed->StartRace(*decision.hedge_after_s);
  }
  return routed;
}

RoutedStream::~RoutedStream() {
  if (stream_ == nullptr) return;
  if (race_ != nullptr) EndRace(/*second_won=*/false);
  stream_->OnReady(nullptr);
  if (!stream_->ended()) stream_->Cancel();
}

// The next target of next_, which is taken off.
absl::StatusOr<std::shared_ptr<GenerateStream>> RoutedStream::Ask(bool judged) {
  const std::string name = std::move(next_.back());
  next_.pop_back();
  Target* target = tools_.router->Find(name);
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
  HOSTLER_ASSIGN_OR_RETURN(std::shared_ptr<GenerateStream> stream,
                           target->Submit(std::move(request)));
  attempts_.push_back({name, {}, stream});
  if (on_ready_ != nullptr) stream->OnReady(on_ready_);
  return stream;
}

absl::Status RoutedStream::Submit(bool judged) {
  HOSTLER_ASSIGN_OR_RETURN(std::shared_ptr<GenerateStream> stream, Ask(judged));
  if (stream_ != nullptr) stream_->OnReady(nullptr);
  stream_ = std::move(stream);
  return absl::OkStatus();
}

bool RoutedStream::SubmitNext(const absl::Status& why) {
  if (request_ == nullptr || cancelled_ || !MayBeRetried(why)) return false;
  while (!next_.empty()) {
    if (!tools_.retries->TakeRetry()) {
      ++tools_.stats->retries_refused;
      return false;
    }
    if (Submit(false).ok()) {
      ++tools_.stats->fallbacks;
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

void RoutedStream::StartRace(double after_s) {
  race_ = std::make_unique<Race>();
  race_->begin = Clock::now();
  // Not to be hedged, but its wait is to be learned from.
  race_->asked = next_.empty() || !std::isfinite(after_s);
  if (race_->asked) return;
  race_->at = *race_->begin +
              std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(after_s));
  race_->alarm = tools_.alarms->Set(race_->at, [this] {
    std::lock_guard lock(ready_mutex_);
    // A copy: the callback may replace itself while it runs.
    const std::function<void()> callback = on_ready_;
    if (callback != nullptr) callback();
  });
}

bool RoutedStream::DueForHedge() const {
  return race_ != nullptr && !race_->asked && Clock::now() >= race_->at;
}

void RoutedStream::AskSecond() {
  race_->asked = true;
  if (!tools_.retries->TakeRetry()) {
    ++tools_.stats->hedges_refused;
    return;
  }
  absl::StatusOr<std::shared_ptr<GenerateStream>> stream = Ask(false);
  if (!stream.ok()) {
    ++tools_.stats->hedges_failed;
    return;
  }
  hedged_ = true;
  race_->second = *std::move(stream);
}

// True when it has a first token, or all that it will ever have.
bool RoutedStream::DrainRacer(GenerateStream* stream, Attempt* attempt,
                              std::vector<GenerateEvent>* held) {
  GenerateEvent event;
  while (stream->TryPop(&event)) {
    const int tokens = static_cast<int>(event.token_ids.size()) + event.unnamed_tokens;
    attempt->seen.completion_tokens += tokens;
    const bool first_token = tokens > 0 || event.finish_reason.has_value();
    held->push_back(std::move(event));
    if (first_token) return true;
    event = GenerateEvent();
  }
  return false;
}

// Whether it is known now who answers.
bool RoutedStream::DecideRace() {
  if (DueForHedge()) AskSecond();
  Attempt* first = &attempts_[attempts_.size() - (race_->second == nullptr ? 1 : 2)];
  if (DrainRacer(stream_.get(), first, &race_->first_held)) {
    ObserveWait(first->target);
    EndRace(/*second_won=*/false);
    return true;
  }
  if (stream_->ended() && race_->second == nullptr) {
    if (!stream_->status().ok()) race_->first_held.clear();
    EndRace(/*second_won=*/false);
    return true;
  }
  if (race_->second == nullptr) return false;
  if (DrainRacer(race_->second.get(), &attempts_.back(), &race_->second_held)) {
    // It waited at least so long.
    ObserveWait(first->target);
    EndRace(/*second_won=*/true);
    return true;
  }
  const bool alone = stream_->ended();
  if (!alone && !race_->second->ended()) return false;
  if (alone) {
    // The second goes on.
    ++tools_.stats->hedges_won;
    std::swap(stream_, race_->second);
    race_->first_held = std::move(race_->second_held);
    race_->begin.reset();
  } else {
    ++tools_.stats->hedges_failed;
    std::swap(attempts_.back(), attempts_[attempts_.size() - 2]);
  }
  race_->second->OnReady(nullptr);
  race_->second.reset();
  return alone && DecideRace();
}

void RoutedStream::ObserveWait(const std::string& target) {
  if (!race_->begin.has_value()) return;
  const std::chrono::duration<double> wait = Clock::now() - *race_->begin;
  tools_.router->ObserveWait(target, wait.count());
}

// The last of attempts_ is the one that answers then.
void RoutedStream::EndRace(bool second_won) {
  tools_.alarms->Clear(race_->alarm);
  const std::unique_ptr<Race> race = std::move(race_);
  held_ = std::move(second_won ? race->second_held : race->first_held);
  held_first_ = 0;
  if (race->second == nullptr) return;
  ++(second_won ? tools_.stats->hedges_won : tools_.stats->hedges_lost);
  std::shared_ptr<GenerateStream> left = race->second;
  if (second_won) {
    std::swap(left, stream_);
  } else {
    std::swap(attempts_.back(), attempts_[attempts_.size() - 2]);
  }
  left->OnReady(nullptr);
  left->Cancel();
}

void RoutedStream::StopJudging() {
  judge_.reset();
  strip_logprobs_ = false;
}

void RoutedStream::Keep() {
  ++tools_.stats->cascades_kept;
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
  ++tools_.stats->cascades_escalated;
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
  if (race_ != nullptr && !DecideRace()) return false;
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
  if (race_ != nullptr && !DecideRace()) return false;
  if (judging() || held_first_ < held_.size() || !stream_->ended()) return false;
  return request_ == nullptr || !FailOver();
}

void RoutedStream::OnReady(std::function<void()> callback) {
  const std::shared_ptr<GenerateStream> stream = stream_;
  const std::shared_ptr<GenerateStream> second = race_ == nullptr ? nullptr : race_->second;
  {
    std::lock_guard lock(ready_mutex_);
    on_ready_ = callback;
  }
  stream->OnReady(callback);
  if (second != nullptr) second->OnReady(callback);
  // Its alarm may have rung when nobody listened.
  if (callback != nullptr && DueForHedge()) callback();
}

void RoutedStream::Cancel() {
  cancelled_ = true;
  if (race_ != nullptr) EndRace(/*second_won=*/false);
  held_.clear();
  held_first_ = 0;
  stream_->Cancel();
}

absl::Status RoutedStream::status() const { return stream_->status(); }

RouteOutcome RoutedStream::outcome() const {
  RouteOutcome outcome;
  outcome.target = target();
  outcome.hedged = hedged_;
  outcome.fallbacks = static_cast<int>(attempts_.size()) - 1 - (hedged_ ? 1 : 0);
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
    // Who leaves early has had the prompt computed all the same.
    const bool left = !attempt.stream->ended() || absl::IsCancelled(attempt.stream->status());
    if (usage.prompt_tokens == 0 && (left || usage.completion_tokens > 0)) {
      usage.prompt_tokens = prompt_tokens_;
    }
    const TargetSnapshot snapshot = tools_.router->Find(attempt.target)->snapshot();
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
