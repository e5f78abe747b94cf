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
  for (Gate& gate : gates) layers_.push_back({std::move(gate), {}, 0});
  experts_ = experts;
  missed_.assign(experts, 1.0f);
  guesses_.reserve(experts);
  rows_.reserve(kRows);
}

void GateLookahead::Place(WorkArena& arena, int64_t dim, int64_t choices) {
  hidden_ = arena.Matrix(kRows, dim);
  logits_ = arena.Matrix(kRows, choices);
}

std::span<const ExpertGuess> GateLookahead::Guess(Backend& backend, int layer, Mat hidden) {
  guesses_.clear();
  guessed_layer_ = -1;
  if (layer >= static_cast<int>(layers_.size()) || hidden.rows == 0) return {};
  const int64_t asked = std::min<int64_t>(hidden.rows, kRows);
  rows_.clear();
  for (int64_t i = 0; i < asked; ++i) {
    rows_.push_back(static_cast<int32_t>(i * hidden.rows / asked));
  }
  const Mat x = hidden_.first_rows(asked), logits = logits_.first_rows(asked);
  backend.GatherRows(hidden, rows_, x);
  layers_[layer].gate(backend, x, logits, &selection_);
  guessed_layer_ = layer;
  Rank(layers_[layer], layer, static_cast<double>(hidden.rows) / static_cast<double>(asked));
  return guesses_;
}

// An expert's chance is that any row wants it, as if each asked row stood for
// `copies` that choose by themselves.
void GateLookahead::Rank(const Layer& layer, int layer_index, double copies) {
  std::fill(missed_.begin(), missed_.end(), 1.0f);
  for (size_t row = 0; row < rows_.size(); ++row) {
    const int32_t first = selection_.offsets[row], end = selection_.offsets[row + 1];
    for (int32_t i = first; i < end; ++i) {
      const int32_t expert = selection_.experts[i];
      if (expert >= experts_) continue;
      const size_t rank = static_cast<size_t>(i - first);
      const float chance = rank < layer.chance.size() ? layer.chance[rank] : kUntaught;
      missed_[expert] *= static_cast<float>(std::pow(1.0 - chance, copies));
    }
  }
  for (int expert = 0; expert < experts_; ++expert) {
    if (missed_[expert] < 1) guesses_.push_back({{layer_index, expert}, 1 - missed_[expert]});
  }
  std::sort(guesses_.begin(), guesses_.end(), [](const ExpertGuess& a, const ExpertGuess& b) {
    return a.chance != b.chance ? a.chance > b.chance : a.key.expert < b.key.expert;
  });
}

void GateLookahead::Learn(int layer_index, const ExpertSelection& chosen) {
  if (layer_index != std::exchange(guessed_layer_, -1)) return;
  Layer& layer = layers_[layer_index];
  for (size_t row = 0; row < rows_.size(); ++row) {
    const auto begin = chosen.experts.begin() + chosen.offsets[rows_[row]];
    const auto end = chosen.experts.begin() + chosen.offsets[rows_[row] + 1];
    layer.lessons = std::min(layer.lessons + 1, kMostLessons);
    const float rate = 1.0f / static_cast<float>(layer.lessons + 1);
    const int32_t first = selection_.offsets[row], last = selection_.offsets[row + 1];
    layer.chance.resize(std::max<size_t>(layer.chance.size(), last - first), kUntaught);
    for (int32_t i = first; i < last; ++i) {
      const float right = std::find(begin, end, selection_.experts[i]) != end ? 1.0f : 0.0f;
      float& chance = layer.chance[i - first];
      chance += rate * (right - chance);
    }
  }
}

}  // namespace hostler
