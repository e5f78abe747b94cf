#include "server/bench/engine_bench.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "server/bench/report.h"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Follows the streams of one batch.
class Batch {
 public:
  ~Batch() {
    for (Stream& s : streams_) {
      s.stream->OnReady(nullptr);
      s.stream->Cancel();
    }
  }

  void Add(std::shared_ptr<GenerateStream> stream) {
    streams_.push_back({stream, 0, false});
    stream->OnReady([this] {
      std::lock_guard<std::mutex> lock(mutex_);
      news_ = true;
      ready_.notify_one();
    });
  }

  // Waits until every sequence has `tokens` tokens or has ended.
  absl::Status WaitForTokens(int tokens) {
    return WaitUntil([tokens](const Stream& s) { return s.ended || s.tokens >= tokens; });
  }
  absl::Status WaitForEnd() {
    return WaitUntil([](const Stream& s) { return s.ended; });
  }

  int64_t tokens() const {
    int64_t sum = 0;
    for (const Stream& s : streams_) sum += s.tokens;
    return sum;
  }
  // Of the sequence that has the most.
  int most_tokens() const {
    int most = 0;
    for (const Stream& s : streams_) most = std::max(most, s.tokens);
    return most;
  }
  // Waits for any news and reads one event of each sequence: a caller that looks
  // at the counts between steps sees all sequences advance together.
  absl::Status Step() {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      ready_.wait(lock, [this] { return news_; });
      news_ = false;
    }
    bool more = false;
    for (Stream& s : streams_) {
      if (std::optional<GenerateEvent> event = s.stream->TryPop()) {
        s.tokens += static_cast<int>(event->token_ids.size());
        more = true;
      } else if (!s.ended && s.stream->ended()) {
        s.ended = true;
        HOSTLER_RETURN_IF_ERROR(s.stream->status());
      }
    }
    if (more) {
      std::lock_guard<std::mutex> lock(mutex_);
      news_ = true;
    }
    return absl::OkStatus();
  }

 private:
  struct Stream {
    std::shared_ptr<GenerateStream> stream;
    int tokens = 0;
    bool ended = false;
  };

  template <typename Done>
  absl::Status WaitUntil(Done done) {
    while (!std::all_of(streams_.begin(), streams_.end(), done)) HOSTLER_RETURN_IF_ERROR(Step());
    return absl::OkStatus();
  }

  std::vector<Stream> streams_;
  std::mutex mutex_;
  std::condition_variable ready_;
  bool news_ = false;
};

class Bench {
 public:
  Bench(Engine* engine, const EngineBenchOptions& options)
      : engine_(engine), options_(options), ids_(OrdinaryIds(engine->model().vocab)) {}

  // Tokens/s.
  absl::StatusOr<double> Prefill(int batch_size) {
    Batch batch;
    const Clock::time_point start = Clock::now();
    HOSTLER_RETURN_IF_ERROR(Start(batch_size, options_.prompt_tokens, 1, &batch));
    HOSTLER_RETURN_IF_ERROR(batch.WaitForTokens(1));
    const double seconds = SecondsSince(start);
    HOSTLER_RETURN_IF_ERROR(batch.WaitForEnd());
    return int64_t{batch_size} * options_.prompt_tokens / seconds;
  }

  // Tokens/s while all sequences decode. Those that were prefilled first
  // generate while the others are still being prefilled, so each may generate
  // more than is measured.
  absl::StatusOr<double> Decode(int batch_size) {
    const int room = engine_->max_context() - options_.prompt_tokens;
    const int tokens = std::min<int64_t>(
        room, options_.gen_tokens + 1 + int64_t{batch_size} * (1 + options_.prompt_tokens / 64));
    Batch batch;
    HOSTLER_RETURN_IF_ERROR(Start(batch_size, options_.prompt_tokens, tokens, &batch));
    HOSTLER_RETURN_IF_ERROR(batch.WaitForTokens(1));
    const Clock::time_point start = Clock::now();
    const int64_t before = batch.tokens();
    const int64_t wanted = before + int64_t{batch_size} * options_.gen_tokens;
    while (batch.tokens() < wanted && batch.most_tokens() < tokens) {
      HOSTLER_RETURN_IF_ERROR(batch.Step());
    }
    const double seconds = SecondsSince(start);
    const int64_t generated = batch.tokens() - before;
    if (generated == 0) {
      return absl::FailedPreconditionError(fmt::format(
          "the first of {} sequences ended before the last one was prefilled; raise --gen-tokens",
          batch_size));
    }
    return generated / seconds;
  }

 private:
  absl::Status Start(int batch_size, int prompt_tokens, int tokens, Batch* batch) {
    for (int i = 0; i < batch_size; ++i) {
      GenerateRequest request;
      PlannedRequest prompt;
      prompt.index = prompts_++;
      prompt.prompt_tokens = prompt_tokens;
      request.id = fmt::format("bench-{}", prompt.index);
      request.prompt = PromptTokens(prompt, kTraceBlockTokens, ids_, options_.seed);
      request.sampling.temperature = 0;
      request.max_tokens = tokens;
      request.ignore_eos = true;
      HOSTLER_ASSIGN_OR_RETURN(std::shared_ptr<GenerateStream> stream,
                               engine_->Submit(std::move(request)));
      batch->Add(std::move(stream));
    }
    return absl::OkStatus();
  }

  Engine* engine_;
  const EngineBenchOptions& options_;
  const IntRange ids_;
  int prompts_ = 0;
};

absl::StatusOr<EngineBenchRow> Measure(Bench* bench, Engine* engine,
                                       const EngineBenchOptions& options, int batch,
                                       const std::function<void(const std::string&)>& progress) {
  EngineBenchRow row;
  row.batch = batch;
  std::vector<double> prefill, decode;
  const EngineStats before = engine->stats();
  for (int i = 0; i < options.repeat; ++i) {
    if (progress) progress(fmt::format("batch {}, {} of {}", batch, i + 1, options.repeat));
    HOSTLER_ASSIGN_OR_RETURN(prefill.emplace_back(), bench->Prefill(batch));
    HOSTLER_ASSIGN_OR_RETURN(decode.emplace_back(), bench->Decode(batch));
  }
  const EngineStats after = engine->stats();
  const uint64_t hits = after.experts.hits - before.experts.hits;
  const uint64_t misses = after.experts.misses - before.experts.misses;
  row.prefill_tokens_per_s = Percentile(&prefill, 0.5);
  row.decode_tokens_per_s = Percentile(&decode, 0.5);
  row.expert_hit_rate = hits + misses > 0 ? double(hits) / (hits + misses) : 1;
  row.expert_read_bytes = (after.experts.read_bytes - before.experts.read_bytes) / options.repeat;
  row.preemptions = after.preemptions - before.preemptions;
  return row;
}

}  // namespace

IntRange OrdinaryIds(int vocab) { return {vocab > 16 ? 3 : 0, std::max(vocab - 1, 0)}; }

absl::StatusOr<std::vector<EngineBenchRow>> BenchEngine(
    Engine* engine, const EngineBenchOptions& options,
    const std::function<void(const std::string&)>& progress) {
  const int64_t length = int64_t{options.prompt_tokens} + options.gen_tokens + 1;
  if (length > engine->max_context()) {
    return absl::InvalidArgumentError(
        fmt::format("prompt and generated tokens are {} with one to start from, more than the "
                    "context of {}",
                    length, engine->max_context()));
  }
  Bench bench(engine, options);
  if (progress) progress("warming up");
  HOSTLER_RETURN_IF_ERROR(bench.Prefill(1).status());
  std::vector<EngineBenchRow> rows;
  for (int batch : options.batches) {
    HOSTLER_ASSIGN_OR_RETURN(rows.emplace_back(),
                             Measure(&bench, engine, options, batch, progress));
  }
  return rows;
}

nlohmann::ordered_json ToJson(const EngineBenchRow& row, const EngineBenchOptions& options) {
  return {{"batch", row.batch},
          {"prompt_tokens", options.prompt_tokens},
          {"gen_tokens", options.gen_tokens},
          {"repeat", options.repeat},
          {"prefill_tokens_per_s", row.prefill_tokens_per_s},
          {"decode_tokens_per_s", row.decode_tokens_per_s},
          {"expert_hit_rate", row.expert_hit_rate},
          {"expert_read_bytes", row.expert_read_bytes},
          {"preemptions", row.preemptions}};
}

std::string ToTable(const std::vector<EngineBenchRow>& rows, const EngineBenchOptions& options) {
  std::string out = fmt::format(
      "{} prompt tokens, {} generated, medians of {}\n{:>6}{:>18}{:>18}"
      "{:>12}{:>14}\n",
      options.prompt_tokens, options.gen_tokens, options.repeat, "batch", "prefill tokens/s",
      "decode tokens/s", "expert hits", "read");
  for (const EngineBenchRow& row : rows) {
    out += fmt::format("{:>6}{:>18.1f}{:>18.1f}{:>11.1f}%{:>14}\n", row.batch,
                       row.prefill_tokens_per_s, row.decode_tokens_per_s, 100 * row.expert_hit_rate,
                       FormatBytes(row.expert_read_bytes));
    if (row.preemptions > 0) {
      out += fmt::format("       {} preemptions: the KV memory holds fewer than {} sequences\n",
                         row.preemptions, row.batch);
    }
  }
  return out;
}

}  // namespace hostler
