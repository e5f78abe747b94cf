// How well a model predicts a text.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

namespace hostler {

struct PerplexityScore {
  double loss = 0;     // nats, summed
  int64_t tokens = 0;  // scored
  int64_t bytes = 0;   // that the scored tokens stand for

  double perplexity() const;
  double bits_per_byte() const;
};

// Logits of every position, [tokens, vocab].
using LogitsFunction =
    std::function<absl::StatusOr<std::vector<float>>(const std::vector<int32_t>&)>;

// How a text is cut into windows, which do not overlap.
struct Windows {
  int tokens = 0;   // of a window, at least 2
  int context = 1;  // of them at its start, not scored; at least 1
  // Stands in place of each window's first token.
  std::optional<int32_t> bos = {};
  bool whole_only = false;  // a shorter window at the end is left out
};

// Scores the windows of `ids`; a last window of nothing but context is left
// out. `progress` (may be null) is called after each window. Errors: those of
// `logits`; InvalidArgument when there is nothing to score.
absl::StatusOr<PerplexityScore> ScoreWindows(
    std::span<const int32_t> ids, const Windows& windows, int vocab, const Tokenizer& tokenizer,
    const LogitsFunction& logits,
    const std::function<void(int64_t done, const PerplexityScore&)>& progress);

// -log softmax(logits)[id], nats.
double TokenLoss(std::span<const float> logits, int32_t id);

}  // namespace hostler
