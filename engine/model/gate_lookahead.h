// Guesses what an MoE layer will choose: its gate is asked about the hidden state
// that the MoE layer before it sees, and again about the one that enters the layer
// itself, which residual connections make much like the one to come (Eliseev & Mazur
// 2023, "Fast Inference of Mixture-of-Experts Language Models with Offloading",
// section 3.2). The second guess comes later and is much better.
#pragma once

#include <array>
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

  // Where the hidden states come from that a guess is made of.
  enum class From { kLayerBefore, kOwnInput };

  // Guesses for MoE layer `layer`, likeliest first, from hidden states
  // [rows, dim] of the same step. A guess's chance is how often guesses of that
  // rank and origin came true in that layer. Valid until the next call. A layer
  // past the last: no guesses.
  std::span<const ExpertGuess> Guess(Backend& backend, int layer, From from, Mat hidden);

  // What `layer` chose for the rows that were guessed of; learns from it.
  void Learn(int layer, const ExpertSelection& chosen);

 private:
  static constexpr size_t kOrigins = 2;

  // How often guesses of each rank came true.
  struct Record {
    std::vector<float> chance;
    int lessons = 0;  // capped
  };
  struct Layer {
    Gate gate;
    std::array<Record, kOrigins> records;
  };
  // The last guess of an origin.
  struct Guessed {
    int layer = -1;
    std::vector<int32_t> rows;  // of the step, those asked about
    ExpertSelection selection;
  };

  void Rank(const Guessed& guessed, const Record& record, double copies);

  std::vector<Layer> layers_;
  int experts_ = 0;
  Mat hidden_, logits_;

  std::array<Guessed, kOrigins> guessed_;
  std::vector<float> missed_;  // [experts], chance that no row wants it
  std::vector<ExpertGuess> guesses_;
};

}  // namespace hostler
