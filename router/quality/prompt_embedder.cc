#include "router/quality/prompt_embedder.h"

#include <algorithm>
#include <utility>

namespace hostler {
namespace {

// More in one batch would make the first of them wait without a gain.
constexpr size_t kBatch = 8;

constexpr double kSmoothing = 0.1;

}  // namespace

PromptEmbedder::PromptEmbedder(std::unique_ptr<Encoder> encoder, std::chrono::microseconds max_wait)
    : encoder_(std::move(encoder)), kind_(KindOf(*encoder_)), max_wait_(max_wait) {}

EmbeddingUse PromptEmbedder::Embed(std::string_view text, std::span<float> out) {
  const Clock::time_point deadline = Clock::now() + max_wait_;
  Waiter self{.text = text, .out = out};
  std::unique_lock lock(mutex_);
  if (ExpectedWait() > max_wait_) return EmbeddingUse::kSkipped;
  waiting_.push_back(&self);
  const auto has_turn = [&] { return computing_ == 0 || self.taken; };
  if (!self.changed.wait_until(lock, deadline, has_turn)) {
    std::erase(waiting_, &self);
    return EmbeddingUse::kSkipped;
  }
  // Another's turn may have come first; then this one's is the next.
  while (!self.taken) {
    self.changed.wait(lock, has_turn);
    if (computing_ == 0) ComputeBatch(&lock);
  }
  self.changed.wait(lock, [&] { return self.done; });
  return self.use;
}

std::chrono::duration<double> PromptEmbedder::ExpectedWait() const {
  using Seconds = std::chrono::duration<double>;
  Seconds rest(0);
  if (computing_ > 0) {
    rest = Seconds(seconds_each_ * static_cast<double>(computing_)) - (Clock::now() - batch_begin_);
  }
  return std::max(rest, Seconds(0)) + Seconds(seconds_each_ * static_cast<double>(waiting_.size()));
}

void PromptEmbedder::ComputeBatch(std::unique_lock<std::mutex>* lock) {
  const size_t count = std::min(waiting_.size(), kBatch);
  const std::vector<Waiter*> batch(waiting_.begin(), waiting_.begin() + count);
  waiting_.erase(waiting_.begin(), waiting_.begin() + count);
  computing_ = count;
  batch_begin_ = Clock::now();
  std::vector<std::string_view> texts;
  for (Waiter* waiter : batch) {
    waiter->taken = true;
    texts.push_back(waiter->text);
  }
  lock->unlock();
  const size_t size = static_cast<size_t>(encoder_->dimensions());
  std::vector<float> embeddings(count * size);
  const absl::Status status = encoder_->Encode(texts, embeddings);
  lock->lock();
  const std::chrono::duration<double> took = Clock::now() - batch_begin_;
  const double each = took.count() / static_cast<double>(count);
  seconds_each_ += (seconds_each_ == 0 ? 1 : kSmoothing) * (each - seconds_each_);
  computing_ = 0;
  for (size_t i = 0; i < count; ++i) {
    if (status.ok()) {
      std::copy_n(embeddings.data() + i * size, size, batch[i]->out.data());
      batch[i]->use = EmbeddingUse::kUsed;
    }
    batch[i]->done = true;
    batch[i]->changed.notify_one();
  }
  if (!waiting_.empty()) waiting_.front()->changed.notify_one();
}

}  // namespace hostler
