#include "server/bench/engine_bench.h"

#include <deque>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

// Steps like an engine: every running sequence gets a token in each, unless its
// client is behind. Counts one miss of 10 bytes and three hits a request.
class FakeEngine : public Engine {
 public:
  explicit FakeEngine(int max_context) : max_context_(max_context) {
    info_.vocab = 100;
    loop_ = std::thread([this] { Loop(); });
  }
  ~FakeEngine() override {
    Wake([this] { stopping_ = true; });
    loop_.join();
  }

  absl::StatusOr<std::shared_ptr<GenerateStream>> Submit(GenerateRequest request) override {
    prompts.push_back(std::get<TokenPrompt>(request.prompt));
    if (fail_at >= 0 && static_cast<int>(prompts.size()) > fail_at) {
      return absl::ResourceExhaustedError("full");
    }
    stats_.experts.hits += 3;
    stats_.experts.misses += 1;
    stats_.experts.read_bytes += 10;
    auto stream = std::make_shared<GenerateStream>(/*capacity=*/4);
    stream->OnDrain([this] { Wake([] {}); });
    Wake([&] { running_.push_back({stream, *request.max_tokens}); });
    return stream;
  }
  absl::StatusOr<std::vector<int32_t>> TokenizePrompt(const GenerateRequest&) const override {
    return std::vector<int32_t>();
  }
  absl::StatusOr<std::vector<float>> Logits(const std::vector<int32_t>&) override {
    return std::vector<float>();
  }
  void Drain(int) override {}
  EngineStats stats() const override { return stats_; }
  std::optional<ExpertReport> experts() const override { return std::nullopt; }
  const ModelInfo& model() const override { return info_; }
  MemoryPlan memory() const override { return plan_; }
  absl::StatusOr<MemoryPlan> SetExpertMemory(uint64_t bytes) override {
    plan_.experts = bytes;
    return plan_;
  }
  int max_context() const override { return max_context_; }
  const Tokenizer* tokenizer() const override { return nullptr; }

  std::vector<std::vector<int32_t>> prompts;
  int fail_at = -1;  // requests that are taken

 private:
  struct Sequence {
    std::shared_ptr<GenerateStream> stream;
    int left = 0;
  };

  template <typename Change>
  void Wake(Change change) {
    std::lock_guard<std::mutex> lock(mutex_);
    change();
    changed_ = true;
    wake_.notify_one();
  }

  void Loop() {
    for (;;) {
      std::vector<Sequence*> batch;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        std::erase_if(running_, [](const Sequence& s) { return s.left == 0; });
        for (Sequence& s : running_) {
          if (!s.stream->full() || s.stream->cancelled()) batch.push_back(&s);
        }
        if (batch.empty()) {
          wake_.wait(lock, [this] { return changed_ || stopping_; });
          if (stopping_) return;
        }
        changed_ = false;
      }
      for (Sequence* s : batch) Step(s);
    }
  }

  static void Step(Sequence* s) {
    if (s->stream->cancelled()) {
      s->left = 0;
      s->stream->End(absl::CancelledError("cancelled"), {}, {});
      return;
    }
    GenerateEvent event;
    event.token_ids = {s->left};
    if (--s->left == 0) event.finish_reason = FinishReason::kLength;
    s->stream->Push(std::move(event));
    if (s->left == 0) s->stream->End(absl::OkStatus(), {}, {});
  }

  const int max_context_;
  ModelInfo info_;
  MemoryPlan plan_;
  EngineStats stats_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::deque<Sequence> running_;  // its elements are the loop's
  bool changed_ = false;
  bool stopping_ = false;
  std::thread loop_;
};

EngineBenchOptions Options(std::vector<int> batches) {
  EngineBenchOptions options;
  options.prompt_tokens = 32;
  options.gen_tokens = 64;
  options.batches = std::move(batches);
  options.repeat = 2;
  return options;
}

TEST(EngineBenchTest, MeasuresEveryBatchSizeWithNewPrompts) {
  FakeEngine engine(2048);
  const EngineBenchOptions options = Options({1, 3});
  const auto rows = BenchEngine(&engine, options, nullptr);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), options.batches.size());
  for (const EngineBenchRow& row : *rows) {
    EXPECT_GT(row.prefill_tokens_per_s, 0);
    EXPECT_GT(row.decode_tokens_per_s, 0);
    EXPECT_DOUBLE_EQ(row.expert_hit_rate, 0.75);
    EXPECT_EQ(row.expert_read_bytes, 20u * row.batch);  // a prefill and a decode each
  }
  for (size_t i = 1; i < engine.prompts.size(); ++i) {
    EXPECT_EQ(engine.prompts[i].size(), 32u);
    EXPECT_NE(engine.prompts[i], engine.prompts[i - 1]);
  }
}

TEST(EngineBenchTest, LengthsBeyondTheContextAreRefused) {
  FakeEngine engine(96);
  EXPECT_TRUE(absl::IsInvalidArgument(BenchEngine(&engine, Options({1}), nullptr).status()));
  EXPECT_TRUE(engine.prompts.empty());
}

TEST(EngineBenchTest, AnEngineErrorEndsTheRun) {
  FakeEngine engine(2048);
  engine.fail_at = 2;
  EXPECT_EQ(BenchEngine(&engine, Options({4}), nullptr).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace hostler
