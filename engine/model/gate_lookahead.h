// Guesses what the next MoE layer will choose: its gate is asked about the
// hidden state that the layer before it sees, which residual connections make
// much like the one to come (Eliseev & Mazur 2023, "Fast Inference of
// Mixture-of-Experts Language Models with Offloading", section 3.2).
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "cache/predictor.h"
#include "engine/compute/backend.h"
#include "engine/model/work_arena.h"

namespace hostler {

// Used by the engine loop's thread. Allocates nothing once every layer was
// guessed.
class GateLookahead {
 public:
  // Rows that are asked about; of a larger step evenly spaced ones stand for all.
  static constexpr int kRows = 16;

  // What the gate of an MoE layer would choose for x, [up to kRows, dim].
  // x is the callee's to change; `logits` has a row for each of its rows.
  using Gate = std::function<void(Backend&, Mat x, Mat logits, ExpertSelection* selection)>;

  // `gates` by MoE layer. Experts from `experts` on have no weights, and are no
  // guesses.
  void SetGates(std::vector<Gate> gates, int experts);

  // Takes its work matrices; `choices`: logits of a row.
  void Place(WorkArena& arena, int64_t dim, int64_t choices);

  // Guesses for MoE layer `layer`, likeliest first, from hidden states
  // [rows, dim] of an earlier place of the same step. A guess's chance is how
  // often guesses of that rank came true in that layer. Valid until the next
  // call. A layer past the last: no guesses.
  std::span<const ExpertGuess> Guess(Backend& backend, int layer, Mat hidden);

  // What `layer` chose for the rows that were guessed of; learns from it.
  void Learn(int layer, const ExpertSelection& chosen);

 private:
  struct Layer {
    Gate gate;
    std::vector<float> chance;  // by rank
    int lessons = 0;            // capped
  };

  void Rank(const Layer& layer, int layer_index, double copies);

  std::vector<Layer> layers_;
  int experts_ = 0;
  Mat hidden_, logits_;

  // The last guess.
  int guessed_layer_ = -1;
  std::vector<int32_t> rows_;  // of the step, those asked about
  ExpertSelection selection_;
  std::vector<float> missed_;  // [experts], chance that no row wants it
  std::vector<ExpertGuess> guesses_;
};

}  // namespace hostler
