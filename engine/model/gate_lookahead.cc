#include "engine/model/gate_lookahead.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace hostler {
namespace {

constexpr float kUntaught = 0.5f;
constexpr int kMostLessons = 256;  // then old ones fade

}  // namespace

void GateLookahead::SetGates(std::vector<Gate> gates, int experts) {
  for (Gate& gate : gates) layers_.push_back({std::move(gate), {}});
  experts_ = experts;
  missed_.assign(experts, 1.0f);
  guesses_.reserve(experts);
  for (Guessed& guessed : guessed_) guessed.rows.reserve(kRows);
}

void GateLookahead::Place(WorkArena& arena, int64_t dim, int64_t choices) {
  hidden_ = arena.Matrix(kRows, dim);
  logits_ = arena.Matrix(kRows, choices);
}

std::span<const ExpertGuess> GateLookahead::Guess(Backend& backend, int layer, From from,
                                                  Mat hidden) {
  guesses_.clear();
  Guessed& guessed = guessed_[static_cast<size_t>(from)];
  guessed.layer = -1;
  if (layer >= static_cast<int>(layers_.size()) || hidden.rows == 0) return {};
  const int64_t asked = std::min<int64_t>(hidden.rows, kRows);
  guessed.rows.clear();
  for (int64_t i = 0; i < asked; ++i) {
    guessed.rows.push_back(static_cast<int32_t>(i * hidden.rows / asked));
  }
  const Mat x = hidden_.first_rows(asked), logits = logits_.first_rows(asked);
  backend.GatherRows(hidden, guessed.rows, x);
  layers_[layer].gate(backend, x, logits, &guessed.selection);
  guessed.layer = layer;
  Rank(guessed, layers_[layer].records[static_cast<size_t>(from)],
       static_cast<double>(hidden.rows) / static_cast<double>(asked));
  return guesses_;
}

// An expert's chance is that any row wants it, as if each asked row stood for
// `copies` that choose by themselves.
void GateLookahead::Rank(const Guessed& guessed, const Record& record, double copies) {
  const ExpertSelection& selection = guessed.selection;
  std::fill(missed_.begin(), missed_.end(), 1.0f);
  for (size_t row = 0; row < guessed.rows.size(); ++row) {
    const int32_t first = selection.offsets[row], end = selection.offsets[row + 1];
    for (int32_t i = first; i < end; ++i) {
      const int32_t expert = selection.experts[i];
      if (expert >= experts_) continue;
      const size_t rank = static_cast<size_t>(i - first);
      const float chance = rank < record.chance.size() ? record.chance[rank] : kUntaught;
      missed_[expert] *= static_cast<float>(std::pow(1.0 - chance, copies));
    }
  }
  for (int expert = 0; expert < experts_; ++expert) {
    if (missed_[expert] < 1) guesses_.push_back({{guessed.layer, expert}, 1 - missed_[expert]});
  }
  std::sort(guesses_.begin(), guesses_.end(), [](const ExpertGuess& a, const ExpertGuess& b) {
    return a.chance != b.chance ? a.chance > b.chance : a.key.expert < b.key.expert;
  });
}

void GateLookahead::Learn(int layer, const ExpertSelection& chosen) {
  for (size_t from = 0; from < kOrigins; ++from) {
    Guessed& guessed = guessed_[from];
    if (layer != guessed.layer) continue;
    guessed.layer = -1;
    Record& record = layers_[layer].records[from];
    for (size_t row = 0; row < guessed.rows.size(); ++row) {
      const auto begin = chosen.experts.begin() + chosen.offsets[guessed.rows[row]];
      const auto end = chosen.experts.begin() + chosen.offsets[guessed.rows[row] + 1];
      record.lessons = std::min(record.lessons + 1, kMostLessons);
      const float rate = 1.0f / static_cast<float>(record.lessons + 1);
      const int32_t first = guessed.selection.offsets[row];
      const int32_t last = guessed.selection.offsets[row + 1];
      record.chance.resize(std::max<size_t>(record.chance.size(), last - first), kUntaught);
      for (int32_t i = first; i < last; ++i) {
        const bool right = std::find(begin, end, guessed.selection.experts[i]) != end;
        float& chance = record.chance[i - first];
        chance += rate * (static_cast<float>(right) - chance);
      }
    }
  }
}

}  // namespace hostler
