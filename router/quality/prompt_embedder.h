// PromptEmbedder: sentence embeddings of prompts, for requests that cannot wait long.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "engine/embed/encoder.h"
#include "router/quality/embedding_kind.h"
#include "router/route_prompt.h"

namespace hostler {

// Thread-safe. Prompts that wait at the same time are computed together, by the thread of
// one of them.
class PromptEmbedder {
 public:
  // A prompt waits for those before it at most this long, and not at all when it
  // should take longer. The time of its own computation comes on top.
  explicit PromptEmbedder(std::unique_ptr<Encoder> encoder,
                          std::chrono::microseconds max_wait = std::chrono::milliseconds(5));

  const EmbeddingKind& kind() const { return kind_; }

  // out [kind().size]. Takes milliseconds. kFailed: the encoder's file is damaged.
  EmbeddingUse Embed(std::string_view text, std::span<float> out);

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiter {
    std::string_view text;
    std::span<float> out;
    bool taken = false;  // its batch is being computed
    bool done = false;
    EmbeddingUse use = EmbeddingUse::kFailed;
    std::condition_variable changed = {};
  };

  // Of a prompt that comes now. REQUIRES: mutex_ is held.
  std::chrono::duration<double> ExpectedWait() const;

  // Computes the first of waiting_. `lock` is held before and after, not meanwhile.
  void ComputeBatch(std::unique_lock<std::mutex>* lock);

  const std::unique_ptr<Encoder> encoder_;
  const EmbeddingKind kind_;
  const std::chrono::microseconds max_wait_;
  std::mutex mutex_;              // guards all below
  std::vector<Waiter*> waiting_;  // in the order of asking
  size_t computing_ = 0;          // prompts of the batch under way
  Clock::time_point batch_begin_;
  double seconds_each_ = 0;  // of a prompt, lately
};

}  // namespace hostler
