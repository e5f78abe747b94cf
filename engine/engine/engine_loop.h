// The engine loop: one thread that owns sequences, KV blocks and the batch.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "engine/engine/chunk_control.h"
#include "engine/engine/engine.h"
#include "engine/engine/gate_recorder.h"
#include "engine/engine/memory_split.h"
#include "engine/engine/scheduler.h"
#include "engine/engine/sequence.h"
#include "engine/engine/width_control.h"
#include "engine/model/loader.h"

namespace hostler {

class EngineLoop {
 public:
  struct Options {
    Scheduler::Limits limits;
    int max_queue = 4096;
    WidthControl::Options width;
    ChunkControl::Options chunk;
    GateRecorder* recorder = nullptr;  // outlives the loop; null: gates are not recorded
  };

  // Starts the thread. `model`, what `memory` views and `split` (null for
  // a dense model) must outlive it; `memory.kv` is that of `blocks`,
  // `memory.state` of `limits.max_sequences` slots.
  EngineLoop(const LoadedModel* model, const ModelMemory& memory, BlockPool blocks,
             MemorySplit* split, const Options& options);
  // Ends whatever still runs with Unavailable.
  ~EngineLoop();

  // Hands over the sequences of one request, stream set. Errors:
  // ResourceExhausted when the queue is full, Unavailable once draining.
  absl::Status Submit(std::vector<std::unique_ptr<Sequence>> sequences);

  // See Engine::Drain.
  void Drain(int deadline_ms);
  // There is something to look at.
  void Wake();

  EngineStats stats() const;

 private:
  void Run();
  // Waits for work; false when the loop is to end.
  bool TakeSubmitted();
  void DropCancelled();
  void Step();
  StepSample SampleParts(std::chrono::steady_clock::time_point start);
  void Learn(StepSample cost);
  void FinishPart(const ScheduledSequence& part);
  void ScorePrompt(const ScheduledSequence& part);
  void Generate(const ScheduledSequence& part);
  // The first failure among the part's rows, or of the weights' file.
  absl::Status PartStatus(const ScheduledSequence& part) const;
  // Says in the batch of which rows the strongest logits are enough.
  void AskForLogits();
  std::span<const float> Logits(int index) const;
  // Ends the request and removes its sequences.
  void EndRequest(std::shared_ptr<RequestState> state, const absl::Status& status);
  void EndAll(const absl::Status& status);
  // What clients are told goes out after the stats it belongs to.
  void PublishStats();
  void Deliver();

  const LoadedModel& model_;
  const ModelMemory memory_;
  MemorySplit* const split_;
  GateRecorder* const recorder_;
  const int max_queue_;

  // The loop thread's.
  Scheduler scheduler_;
  WidthControl width_;
  ChunkControl chunk_;
  StepBatch batch_;
  StepResult result_;
  std::vector<float> whole_logits_;  // of a row whose strongest were not enough
  absl::Status health_;
  EngineStats totals_;
  std::vector<ScheduledSequence> parts_;  // of the step, some of which may be gone
  // News for a stream: an event, or the request's end.
  struct Delivery {
    std::shared_ptr<RequestState> state;
    bool is_end = false;
    GenerateEvent event;
    absl::Status status;
  };
  Delivery& NewDelivery(std::shared_ptr<RequestState> state);
  std::vector<Delivery> outbox_;  // the first deliveries_; the others keep their memory
  size_t deliveries_ = 0;

  mutable std::mutex mutex_;  // guards all below; never held during a step
  std::condition_variable wake_;
  std::condition_variable idle_;
  std::vector<std::unique_ptr<Sequence>> submitted_;
  bool news_ = false;  // something to look at: submissions, a drained stream, a cancel
  bool draining_ = false;
  bool stopping_ = false;
  bool busy_ = false;
  int queued_ = 0;  // sequences submitted and not yet in the batch
  EngineStats stats_;

  std::thread thread_;  // last: starts when all else is there
};

}  // namespace hostler
