// Records the gates' choices of the steps that a model computes, as an expert
// trace (cache/trace.h).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/trace.h"
#include "engine/compute/step_batch.h"
#include "engine/model/model.h"

namespace hostler {

// Lines wait in a ring that is made at the start; a thread of the recorder's own
// writes them. Whoever steps allocates nothing and never touches the file.
//
// A step's lines stand in the trace sequence by sequence: a part of a prompt by
// layer, then token; the token of a sequence that generates by layer. With
// several sequences their tokens alternate.
class GateRecorder : public GateTrace {
 public:
  struct Options {
    std::string path;        // replaced
    uint64_t max_bytes = 0;  // recording ends before the file grows larger; 0: never
    int step_rows = 0;       // most rows of a step
    // A step for which the ring has no room waits; else its lines are dropped.
    bool wait = false;
    // Told, once each, that lines are dropped, and why recording ended. From the
    // recorder's thread; may be null.
    std::function<void(const std::string& text)> warn = nullptr;
  };

  // Errors: TraceWriter::Create's.
  static absl::StatusOr<std::unique_ptr<GateRecorder>> Create(const Options& options,
                                                              const Model& model);
  ~GateRecorder() override;  // ends recording

  // Memory of the ring.
  static uint64_t RingBytes(const Model& model, int step_rows);

  // Around each Model::Forward whose StepResult has this for its trace. Between
  // the two Record() is called for every layer.
  void BeginStep(const StepBatch& batch);
  void EndStep();
  void Record(int layer, const ExpertSelection& selection) override;

  // Writes what is left and takes no more. Errors: Unavailable.
  absl::Status Finish();

  struct Counts {
    uint64_t written = 0;
    uint64_t dropped = 0;   // the ring had no room
    uint64_t left_out = 0;  // rows that chose fewer experts than a line has
  };
  Counts counts() const;  // any thread

 private:
  struct Line {
    TraceLine trace;
    int part_lines = 0;  // of the part that begins here; 0: none does
    bool recorded = false;
  };
  // Some rows of one sequence in one step.
  struct Part {
    int first_row = 0;
    int rows = 0;
    int first_position = 0;
    bool decode = false;
  };

  GateRecorder(const Options& options, int layers, int topk, std::unique_ptr<TraceWriter> writer);
  bool TakeRoom(uint64_t lines);
  void Run();
  // Writes the part that begins at line `first`; returns its lines. An error or
  // the file's end goes to `status`.
  uint64_t WritePart(uint64_t first, Counts* counts, absl::Status* status);
  void Warn(const std::string& text) const;

  const Options options_;
  const int layers_;
  const size_t topk_;
  const uint64_t capacity_;  // lines: two steps' at most
  const std::unique_ptr<TraceWriter> writer_;

  // The ring: line i of all lines ever is at i % capacity_.
  std::vector<Line> lines_;
  std::vector<int> experts_;    // [capacity, topk]
  std::vector<float> weights_;  // [capacity, topk]

  // The stepping thread's.
  std::vector<Part> parts_;
  uint64_t step_first_ = 0, step_lines_ = 0;  // no lines: the step is not recorded

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable ready_, room_;
  uint64_t begun_ = 0, done_ = 0;  // lines put into the ring, and taken out
  Counts counts_;
  absl::Status status_;  // not OK: recording has ended
  bool stopping_ = false;

  std::thread thread_;
};

}  // namespace hostler
