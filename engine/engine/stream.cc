#include "engine/engine/stream.h"

namespace hostler {

std::optional<GenerateEvent> GenerateStream::TryPop() {
  std::optional<GenerateEvent> event;
  bool has_room_again = false;
  {
    std::lock_guard lock(mutex_);
    if (events_.empty()) return std::nullopt;
    event = std::move(events_.front());
    events_.pop_front();
    has_room_again = events_.size() + 1 == capacity_;
  }
  if (has_room_again) TellProducer();
  return event;
}

std::optional<GenerateEvent> GenerateStream::Pop() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return !events_.empty() || ended_; });
      if (events_.empty()) return std::nullopt;
    }
    // Empty-handed when Cancel() threw the events away meanwhile.
    if (std::optional<GenerateEvent> event = TryPop()) return event;
  }
}

bool GenerateStream::ended() const {
  std::lock_guard lock(mutex_);
  return ended_ && events_.empty();
}

void GenerateStream::OnReady(std::function<void()> callback) {
  std::shared_ptr<const std::function<void()>> next;
  if (callback != nullptr) {
    next = std::make_shared<const std::function<void()>>(std::move(callback));
  }
  std::lock_guard callback_lock(callback_mutex_);
  on_ready_ = next;
  if (next == nullptr) return;
  bool news = false;
  {
    std::lock_guard lock(mutex_);
    news = !events_.empty() || ended_;
  }
  if (news) (*next)();
}

void GenerateStream::Cancel() {
  {
    std::lock_guard lock(mutex_);
    if (cancelled_) return;
    cancelled_ = true;
    if (ended_ && !events_.empty() && status_.ok()) {
      status_ = absl::CancelledError("the request was cancelled");
    }
    events_.clear();
  }
  TellProducer();
}

absl::Status GenerateStream::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

Usage GenerateStream::usage() const {
  std::lock_guard lock(mutex_);
  return usage_;
}

Timings GenerateStream::timings() const {
  std::lock_guard lock(mutex_);
  return timings_;
}

void GenerateStream::Push(GenerateEvent event) {
  {
    std::lock_guard lock(mutex_);
    if (cancelled_ || ended_) return;
    events_.push_back(std::move(event));
  }
  Notify();
}

void GenerateStream::End(absl::Status status, const Usage& usage, const Timings& timings) {
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    if (cancelled_ && status.ok()) status = absl::CancelledError("the request was cancelled");
    status_ = std::move(status);
    usage_ = usage;
    timings_ = timings;
    ended_ = true;
  }
  {
    // The producer may be gone once this returns.
    std::lock_guard drain_lock(drain_mutex_);
    on_drain_ = nullptr;
  }
  Notify();
}

bool GenerateStream::full() const {
  std::lock_guard lock(mutex_);
  return events_.size() >= capacity_;
}

bool GenerateStream::cancelled() const {
  std::lock_guard lock(mutex_);
  return cancelled_;
}

void GenerateStream::Notify() {
  ready_.notify_all();
  std::lock_guard callback_lock(callback_mutex_);
  // A copy: the callback may replace itself while it runs.
  const auto running = on_ready_;
  if (running != nullptr) (*running)();
}

void GenerateStream::TellProducer() {
  std::lock_guard drain_lock(drain_mutex_);
  const auto running = on_drain_;
  if (running != nullptr) (*running)();
}

}  // namespace hostler
