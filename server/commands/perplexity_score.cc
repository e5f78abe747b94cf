#include "server/commands/perplexity_score.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/base/status.h"

namespace hostler {

double PerplexityScore::perplexity() const { return std::exp(loss / tokens); }

double PerplexityScore::bits_per_byte() const {
  return bytes > 0 ? loss / std::numbers::ln2 / bytes : 0;
}

double TokenLoss(std::span<const float> logits, int32_t id) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float x : logits) sum += std::exp(x - top);
  return std::log(sum) - (logits[id] - top);
}

absl::StatusOr<PerplexityScore> ScoreWindows(
    std::span<const int32_t> ids, int window, int vocab, const Tokenizer& tokenizer,
    const LogitsFunction& logits,
    const std::function<void(int64_t done, const PerplexityScore&)>& progress) {
  PerplexityScore score;
  for (size_t start = 0; start + 1 < ids.size(); start += window) {
    const size_t end = std::min(start + window, ids.size());
    const std::vector<int32_t> tokens(ids.begin() + start, ids.begin() + end);
    HOSTLER_ASSIGN_OR_RETURN(const std::vector<float> rows, logits(tokens));
    if (rows.size() != tokens.size() * vocab) {
      return absl::InternalError("the engine returned logits of another shape");
    }
    for (size_t i = 1; i < tokens.size(); ++i) {
      const std::span<const float> row(rows.data() + (i - 1) * vocab, vocab);
      score.loss += TokenLoss(row, tokens[i]);
      score.bytes += tokenizer.TokenBytes(tokens[i]).size();
      ++score.tokens;
    }
    if (progress) progress(end, score);
  }
  if (score.tokens == 0) {
    return absl::InvalidArgumentError("the text has fewer than two tokens, nothing to score");
  }
  return score;
}

}  // namespace hostler
