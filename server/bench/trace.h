// Request traces of real services: arrival times and token counts, turned into
// a plan of requests to send; and plans of random requests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hostler {

// Tokens of one trace block before scaling (Mooncake's hash_ids).
inline constexpr int kTraceBlockTokens = 512;

// One request to be sent.
struct PlannedRequest {
  double at_s = 0;  // since the start of the run; unused in a closed loop
  int index = 0;    // row of the trace, or number of the request
  int prompt_tokens = 0;
  int output_tokens = 0;
  // Ids of the prompt's blocks of LoadPlan::block_tokens; equal ids are equal
  // tokens. Empty: the whole prompt is drawn from `index`.
  std::vector<int64_t> blocks;
};

struct LoadPlan {
  std::vector<PlannedRequest> requests;  // by at_s
  int block_tokens = kTraceBlockTokens;
  int skipped = 0;      // rows longer than the context
  bool spread = false;  // a coarse grain of the times was spread
};

// Reads an Azure CSV (timestamp_s,context_tokens,generated_tokens) or a
// Mooncake JSONL (timestamp in ms, input_length, output_length, hash_ids), the
// first `limit` rows (0: all). Errors: NotFound; InvalidArgument naming the
// line.
absl::StatusOr<LoadPlan> ReadTrace(const std::string& path, int limit);

// Where every time is a multiple of 3 s (within 3 ms) and the trace is longer
// than that: t += 3 s * frac(index * 0.6180339887), sorted again, and
// plan->spread is set.
void SpreadGrain(LoadPlan* plan);

// Divides lengths by `divisor`, rounding up, and blocks with them, so that
// shared prefixes stay shared. Errors: InvalidArgument unless it is a power of
// two from 1 to 64.
absl::Status ScaleLengths(int divisor, LoadPlan* plan);

// Drops and counts requests whose prompt and output exceed `context` tokens.
void SkipLongerThan(int context, LoadPlan* plan);

// A range of lengths or ids, both ends included.
struct IntRange {
  int first = 0;
  int last = 0;
};

// "64" or "16-128". Errors: InvalidArgument; nothing below `least` is taken.
absl::StatusOr<IntRange> ParseIntRange(const std::string& text, int least);

// `count` requests with lengths drawn evenly from the ranges. `rate` per
// second with exponential gaps (a Poisson process); 0: all at time 0.
LoadPlan RandomPlan(int count, IntRange prompt, IntRange output, double rate, uint64_t seed);

// The request's prompt: token j of block h is ids.first + mix(seed, h, j) mod
// the number of ids.
std::vector<int32_t> PromptTokens(const PlannedRequest& request, int block_tokens, IntRange ids,
                                  uint64_t seed);

// Evenly distributed 64 bits from three numbers (splitmix64's finalizer,
// Steele et al. 2014, chained).
uint64_t Mix64(uint64_t seed, uint64_t a, uint64_t b);

}  // namespace hostler
