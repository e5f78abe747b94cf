// What a trace says about keeping only some experts in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/trace.h"

namespace hostler {

// Segment routing best performance (SRP) and segment cache best hit rate (SCH):
// Liang et al., "Not All Models Suit Expert Offloading" (arXiv 2505.16056),
// sections 2.2 and 2.3, over every segment of `tokens` tokens of every layer.
struct SegmentScore {
  int tokens = 0;
  // Best F1 of choosing the same experts for a whole segment as for its tokens.
  double srp = 0;
  // Experts that choice takes, over those a token takes.
  double size_ratio = 0;
  // Hit rate of a cache for each layer of 1, 2 and 4 times topk experts that
  // evicts what the next `tokens` tokens use least.
  double sch[3] = {};
};

struct TraceAnalysis {
  int64_t tokens = 0;  // of decode
  std::vector<SegmentScore> segments;

  // Tokens since an expert's last use, as shares of all uses: at most 1, 4, 16
  // and 64 tokens; the rest was longer ago or is a first use.
  double reuse_within[4] = {};
  double first_uses = 0;

  // Shares of uses that fall on the tenth and the fifth of each layer's experts
  // used most, and of experts never used.
  double top_tenth = 0;
  double top_fifth = 0;
  double never_used = 0;

  // Share of a layer's experts found among the topk likeliest by the
  // transitions from the layer before, and by popularity alone.
  double affinity = 0;
  double affinity_of_popular = 0;

  // Hit rate of the default policy.
  struct Hits {
    double capacity = 0;  // of all experts
    double rate = 0;
  };
  std::vector<Hits> hits;  // by rising capacity
  double cycle = 0;        // the experts of one token, of all experts
  uint64_t all_bytes = 0;  // of all experts; 0: not known
  bool bytes_assumed = false;

  // The smallest capacity of `hits` with kGoodShare of the last one's hits: the
  // rest are first uses, or cost much memory each.
  double budget = 0;
};

inline constexpr double kGoodShare = 0.9;

// Errors: InvalidArgument when there is nothing to analyze.
absl::StatusOr<TraceAnalysis> AnalyzeTrace(const ExpertTrace& trace);

// In a few sentences: whether this model suits offloading, and the budget.
std::string Verdict(const TraceAnalysis& analysis);

}  // namespace hostler
