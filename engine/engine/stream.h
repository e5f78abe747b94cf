// GenerateStream: the bounded queue between whoever produces a request's
// events and the one client that reads them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "engine/engine/request.h"

namespace hostler {

// One producer, one consumer, held by both through shared_ptr. The producer is
// never blocked: when the queue is full() it leaves the request's sequences
// out of its steps until the consumer has caught up.
class GenerateStream {
 public:
  // `capacity`: events held before full() says so (at least 1).
  explicit GenerateStream(size_t capacity = 256) : capacity_(capacity) {}

  // -- Consumer -------------------------------------------------------------

  // The next event if one is there. After ended() none will come. The first form
  // exchanges it for `*event`, whose memory the producer then uses again.
  bool TryPop(GenerateEvent* event);
  std::optional<GenerateEvent> TryPop();

  // Waits for the next event; nullopt when the request has ended.
  std::optional<GenerateEvent> Pop();

  // The request is over and every event was taken.
  bool ended() const;

  // `callback` runs (on the producer's thread; it must not block) whenever
  // there is news: an event, or the end. It also runs at once if there already
  // is. Setting a new one, or null, waits for a running call to finish.
  void OnReady(std::function<void()> callback);

  // The client is gone: the producer drops the request within a step. Events
  // still queued are thrown away. Any thread, any number of times.
  void Cancel();

  // Valid once the first event or the end is there.
  const PromptInfo& prompt() const { return prompt_; }

  // Valid once ended(): OK, or why the request failed (Cancelled after Cancel()).
  absl::Status status() const;
  Usage usage() const;
  Timings timings() const;

  // -- Producer -------------------------------------------------------------

  // REQUIRES: before the first Push or End.
  void SetPrompt(PromptInfo prompt) { prompt_ = std::move(prompt); }
  // Leaves in `event` the memory of one that was read before.
  void Push(GenerateEvent&& event);
  // The last call. `status` not OK: the request failed, after whatever events
  // came before.
  void End(absl::Status status, const Usage& usage, const Timings& timings);
  bool full() const { return size_.load(std::memory_order_relaxed) >= capacity_; }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // `callback` runs on the consumer's thread when a full queue has room again
  // or the request is cancelled. REQUIRES: set before the consumer starts.
  // End() waits for a running call, after which none comes: call End without
  // a lock that the callback takes.
  void OnDrain(std::function<void()> callback) {
    on_drain_ = std::make_shared<const std::function<void()>>(std::move(callback));
  }

 private:
  void Grow();
  void Notify();
  void TellProducer();

  const size_t capacity_;
  PromptInfo prompt_;

  mutable std::mutex mutex_;  // guards all below; held for changes of the atomic ones
  std::condition_variable ready_;
  std::vector<GenerateEvent> events_;  // a ring, which grows; places not in use keep their memory
  size_t first_ = 0;
  std::atomic<size_t> size_{0};
  std::atomic<bool> cancelled_{false};
  bool ended_ = false;
  absl::Status status_;
  Usage usage_;
  Timings timings_;

  std::recursive_mutex callback_mutex_;  // held while on_ready_ runs
  std::shared_ptr<const std::function<void()>> on_ready_;
  std::recursive_mutex drain_mutex_;  // held while on_drain_ runs
  std::shared_ptr<const std::function<void()>> on_drain_;
};

}  // namespace hostler
