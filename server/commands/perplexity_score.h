// How well a model predicts a text.
#pragma once

#include <cstdint>
#include <functional>
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

// Cuts `ids` into windows of `window` (at least 2) tokens that do not overlap
// and scores every token but the first of each; a last window of one token is
// left out. `progress` (may be null) is called after each window. Errors: those
// of `logits`; InvalidArgument when there is nothing to score.
absl::StatusOr<PerplexityScore> ScoreWindows(
    std::span<const int32_t> ids, int window, int vocab, const Tokenizer& tokenizer,
    const LogitsFunction& logits,
    const std::function<void(int64_t done, const PerplexityScore&)>& progress);

// -log softmax(logits)[id], nats.
double TokenLoss(std::span<const float> logits, int32_t id);

}  // namespace hostler
