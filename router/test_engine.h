// An Engine for tests of what lies above engines: it computes nothing; the
// test plays the producer of every stream it hands out.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/engine/engine.h"

namespace hostler {

// One token with this text; the last one of a whole answer.
inline GenerateEvent TextToken(const std::string& text, bool last = false) {
  GenerateEvent event;
  event.text = text;
  event.token_ids = {7};
  if (last) event.finish_reason = FinishReason::kStop;
  return event;
}

class TestEngine : public Engine {
 public:
  using Stream = std::shared_ptr<GenerateStream>;

  ~TestEngine() override { Drain(0); }

  absl::StatusOr<Stream> Submit(GenerateRequest request) override {
    if (!refuse.ok()) return refuse;
    auto stream = std::make_shared<GenerateStream>(stream_capacity);
    std::vector<int32_t> ids = *TokenizePrompt(request);
    const int count = static_cast<int>(ids.size());
    stream->SetPrompt({std::move(ids), {}});
    {
      std::lock_guard lock(mutex_);
      requests_.push_back(request);
      streams_.push_back(stream);
    }
    submitted_.notify_all();
    if (on_submit) on_submit(request, *stream, Usage{.prompt_tokens = count});
    return stream;
  }

  // One token for each byte.
  absl::StatusOr<std::vector<int32_t>> TokenizePrompt(
      const GenerateRequest& request) const override {
    if (const auto* ids = std::get_if<TokenPrompt>(&request.prompt)) return *ids;
    const auto* text = std::get_if<std::string>(&request.prompt);
    if (text == nullptr) return FieldError("messages", "this model has no chat template");
    return std::vector<int32_t>(text->begin(), text->end());
  }

  absl::StatusOr<std::vector<float>> Logits(const std::vector<int32_t>&) override {
    return absl::UnimplementedError("no logits");
  }

  void Drain(int) override {
    std::lock_guard lock(mutex_);
    for (const Stream& stream : streams_) stream->End(absl::UnavailableError("drained"), {}, {});
  }

  EngineStats stats() const override { return reported; }
  std::optional<ExpertReport> experts() const override { return expert_report; }
  const ModelInfo& model() const override { return info; }
  MemoryPlan memory() const override { return plan; }
  absl::StatusOr<MemoryPlan> SetExpertMemory(uint64_t bytes) override {
    if (!refuse_memory.ok()) return refuse_memory;
    plan.experts = bytes;
    return plan;
  }
  int max_context() const override { return context; }
  const Tokenizer* tokenizer() const override { return nullptr; }

  // The request submitted as number `index`; waits for it.
  std::pair<GenerateRequest, Stream> WaitForRequest(size_t index) {
    std::unique_lock lock(mutex_);
    submitted_.wait(lock, [&] { return streams_.size() > index; });
    return {requests_[index], streams_[index]};
  }

  // Set before requests arrive.
  std::function<void(const GenerateRequest&, GenerateStream&, Usage)> on_submit;
  absl::Status refuse;
  size_t stream_capacity = 256;
  absl::Status refuse_memory;
  EngineStats reported;
  std::optional<ExpertReport> expert_report;
  ModelInfo info;
  MemoryPlan plan;
  int context = 4096;

 private:
  std::mutex mutex_;
  std::condition_variable submitted_;
  std::vector<GenerateRequest> requests_;
  std::vector<Stream> streams_;
};

}  // namespace hostler
