// Draws the next token from logits.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/compute/logit_candidate.h"

namespace hostler {

// SamplingParams with every default filled in.
struct SamplingRule {
  double temperature = 1;
  int top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias = {};

  bool changes_logits() const {
    return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0 ||
           !logit_bias.empty();
  }
  // How many of a row's strongest logits Sampler::SampleFrom needs, as a rule; 0: it needs
  // the row. So many tokens are banned.
  int StrongestNeeded(size_t banned) const;
};

// One sequence's sampler. The n-th draw depends on (seed, stream, n) and the
// logits alone, so a sequence that is preempted and recomputed goes on as it
// would have. Not thread-safe.
class Sampler {
 public:
  // `stream` tells the n sequences of one request apart. `prompt` counts for
  // the repetition penalty.
  Sampler(SamplingRule rule, uint64_t seed, uint64_t stream, std::span<const int32_t> prompt);

  // Tokens in `banned` cannot be drawn. The token drawn counts as output from
  // then on. REQUIRES: not every token is banned.
  int32_t Sample(std::span<const float> logits, std::span<const int32_t> banned);

  // What Sample would draw from the row of `vocab` logits of which these are the strongest,
  // strongest first. Nullopt, and nothing was drawn, if they do not tell.
  std::optional<int32_t> SampleFrom(std::span<const LogitCandidate> strongest, int vocab,
                                    std::span<const int32_t> banned);

  // The final distribution over all tokens, 0 for those dropped: logit_bias,
  // repetition, frequency and presence penalty, temperature, min_p, top_k,
  // top_p, in this order (the vLLM v1 sampler's; penalties as in the OpenAI
  // API and, for repetition, CTRL).
  std::vector<double> Distribution(std::span<const float> logits,
                                   std::span<const int32_t> banned = {});

  const SamplingRule& rule() const { return rule_; }

  // Marks `token` as generated without drawing it.
  void Accept(int32_t token);

 private:
  struct Candidate {
    int32_t id;
    double weight;  // the logit, later the unnormalised probability
  };
  static bool Stronger(const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  }

  void AdjustLogits(std::span<const float> logits, std::span<const int32_t> banned);
  int32_t ArgMax() const;
  void KeepCandidates();  // fills kept_ and total_ from adjusted_
  // Of those that may still be missing from kept_, none belongs there.
  bool KeepStrongest(std::span<const LogitCandidate> strongest, int vocab,
                     std::span<const int32_t> banned);
  void CutTopK();  // leaves of kept_, of ascending ids, the top_k and what equals them
  void KeepWeights(double max_z);  // of kept_, ascending ids and logits; total_; top_p
  int32_t DrawFromKept();
  int32_t Drawn(int32_t token);  // counts it
  void KeepTopP();               // of kept_
  // An adjusted logit below which none of the top_k is.
  double LeastOfTopK();

  SamplingRule rule_;
  uint64_t seed_;
  uint64_t stream_;
  uint64_t draws_ = 0;
  std::unordered_set<int32_t> prompt_tokens_;  // distinct; for the repetition penalty
  std::unordered_map<int32_t, int> output_counts_;
  std::vector<double> adjusted_;  // [vocab], after penalties
  std::vector<double> block_largest_, weights_;
  std::vector<Candidate> kept_;  // what is left to draw from
  double total_ = 0;             // of kept_'s weights
};

}  // namespace hostler
