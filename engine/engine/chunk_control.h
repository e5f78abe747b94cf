// ChunkControl: how many rows of prompts a step takes while others generate.
//
// Whoever generates waits for the whole step, so a long chunk is a long gap
// between two tokens (Agrawal et al. 2024, "Taming throughput-latency tradeoff
// in LLM inference with Sarathi-Serve", section 4.2). But a chunk costs much
// before its first row: above all, every expert that it asks for and that is not
// resident is read once for all its rows. So chunks are as large as the gap
// aimed at allows, and never so small that prompts go at less than half their
// best speed. Both are measured. Where nobody generates a chunk is a whole step.
#pragma once

#include <array>

#include "engine/engine/step_sample.h"

namespace hostler {

// Pure and replayable. Allocates nothing. Not thread-safe.
class ChunkControl {
 public:
  struct Options {
    int max_rows = 512;         // of a step
    double target_seconds = 0;  // of a step in which sequences generate; 0: as long as it takes
  };

  explicit ChunkControl(const Options& options);

  // Rows of prompts in the next step, in which `decodes` sequences generate.
  int Rows(int decodes) const;

  // That step is done.
  void OnStep(const StepSample& cost);

 private:
  static constexpr int kLevels = 21;  // level l is a chunk of 1 << l rows

  struct Level {
    double seconds = 0;   // a step with such a chunk, as far as is known
    int measured_at = 0;  // chunks_ then; 0: never
  };

  int RowsOf(int level) const;
  int Best() const;

  const Options options_;
  const int top_;    // the level of max_rows
  const int least_;  // the smallest that is chosen
  int chunks_ = 0;   // measured
  std::array<Level, kLevels> levels_ = {};
};

}  // namespace hostler
