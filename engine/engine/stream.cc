#include "engine/engine/stream.h"

#include <algorithm>
#include <utility>

namespace hostler {

bool GenerateStream::TryPop(GenerateEvent* event) {
  bool has_room_again = false;
  {
    std::lock_guard lock(mutex_);
    if (size_ == 0) return false;
    std::swap(*event, events_[first_]);
    first_ = (first_ + 1) % events_.size();
    has_room_again = size_-- == capacity_;
  }
  if (has_room_again) TellProducer();
  return true;
}

std::optional<GenerateEvent> GenerateStream::TryPop() {
  GenerateEvent event;
  if (!TryPop(&event)) return std::nullopt;
  return event;
}

std::optional<GenerateEvent> GenerateStream::Pop() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return size_ > 0 || ended_; });
      if (size_ == 0) return std::nullopt;
    }
    // Empty-handed when Cancel() threw the events away meanwhile.
    if (std::optional<GenerateEvent> event = TryPop()) return event;
  }
}

bool GenerateStream::ended() const {
  std::lock_guard lock(mutex_);
  return ended_ && size_ == 0;
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
    news = size_ > 0 || ended_;
  }
  if (news) (*next)();
}

void GenerateStream::Cancel() {
  {
    std::lock_guard lock(mutex_);
    if (cancelled_) return;
    cancelled_ = true;
    if (ended_ && size_ > 0 && status_.ok()) {
      status_ = absl::CancelledError("the request was cancelled");
    }
    size_ = 0;
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

// The ring is full: the first event goes to its begin, and places follow the last.
void GenerateStream::Grow() {
  std::rotate(events_.begin(), events_.begin() + static_cast<ptrdiff_t>(first_), events_.end());
  first_ = 0;
  events_.resize(std::max<size_t>(4, 2 * events_.size()));
}

void GenerateStream::Push(GenerateEvent&& event) {
  {
    std::lock_guard lock(mutex_);
    if (cancelled_ || ended_) return;
    if (size_ == events_.size()) Grow();
    std::swap(event, events_[(first_ + size_) % events_.size()]);
    ++size_;
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
