#include "server/commands/perplexity_score.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/base/status.h"
#include "fmt/format.h"

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
    std::span<const int32_t> ids, const Windows& windows, int vocab, const Tokenizer& tokenizer,
    const LogitsFunction& logits,
    const std::function<void(int64_t done, const PerplexityScore&)>& progress) {
  PerplexityScore score;
  const size_t least = windows.whole_only ? windows.tokens : windows.context + 1;
  for (size_t start = 0; start + least <= ids.size(); start += windows.tokens) {
    const size_t end = std::min(start + windows.tokens, ids.size());
    std::vector<int32_t> tokens(ids.begin() + start, ids.begin() + end);
    if (windows.bos.has_value()) tokens[0] = *windows.bos;
    HOSTLER_ASSIGN_OR_RETURN(const std::vector<float> rows, logits(tokens));
    if (rows.size() != tokens.size() * vocab) {
      return absl::InternalError("the engine returned logits of another shape");
    }
    for (size_t i = windows.context; i < tokens.size(); ++i) {
      const std::span<const float> row(rows.data() + (i - 1) * vocab, vocab);
      score.loss += TokenLoss(row, tokens[i]);
      score.bytes += tokenizer.TokenBytes(tokens[i]).size();
      ++score.tokens;
    }
    if (progress) progress(end, score);
  }
  if (score.tokens == 0) {
    return absl::InvalidArgumentError(
        fmt::format("the text's {} tokens are too few, nothing to score", ids.size()));
  }
  return score;
}

}  // namespace hostler
