// Replays an expert trace through the objects that serve: what share of the
// asked-for experts a policy would have had in memory, and what a predictor
// would have saved. Hits are counted as docs/expert-cache.md defines.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/policy.h"
#include "cache/predictor.h"
#include "cache/trace.h"

namespace hostler {

// A trace as the requests it makes: one for each (token, layer) of decode, one
// for each layer of a prompt.
class RequestList {
 public:
  struct Item {
    bool decode = false;
    ExpertRequest request;  // its spans live as long as the list
  };

  // With several `sequences` the decode tokens are cut into as many equal
  // stretches that run as one batch, and the prompt is left out: a stand-in for
  // conversations of like topic.
  explicit RequestList(const ExpertTrace& trace, int sequences = 1);
  RequestList(const RequestList&) = delete;
  RequestList& operator=(const RequestList&) = delete;

  std::span<const Item> items() const { return items_; }
  const PolicyShape& shape() const { return shape_; }

 private:
  PolicyShape shape_;
  std::vector<Item> items_;
  std::vector<int> experts_, offsets_, chosen_;
};

// floor(fraction x layers x experts + 0.5)
int64_t CapacityOf(double fraction, const PolicyShape& shape);

struct ReplayOptions {
  int64_t capacity = 0;  // experts, of all layers
  bool cold = false;     // leave the prompt out
  // Members of the running request may make room for others of it: what an
  // oracle with bypass does.
  bool members_leave = false;
};

struct ReplayCounts {
  uint64_t hits = 0;  // in decode
  uint64_t lookups = 0;
  uint64_t bypassed = 0;  // misses that were used but not kept
};

// `policy` is fresh.
ReplayCounts Replay(const RequestList& requests, const ReplayOptions& options,
                    EvictionPolicy* policy);

// Evicts what is needed last, which needs the future: the bound. With `bypass`
// (and ReplayOptions::members_leave) an expert that is needed later than all
// that is resident is not kept. `cold` as it will be replayed.
std::unique_ptr<EvictionPolicy> NewBeladyPolicy(const RequestList& requests, bool cold,
                                                bool bypass);

// A disk that reads one expert at a time, demand first, while layers compute.
struct ReplayTiming {
  double bandwidth_bytes_s = 0;
  double compute_s = 0;                // of a token
  std::vector<uint64_t> expert_bytes;  // [layers]
  int ahead = 1;                       // layers that are predicted
  double least_chance = 0.3;           // guesses below it are not read
};

struct ReplayTimes {
  ReplayCounts counts;
  double seconds = 0;        // of decode
  double stall_seconds = 0;  // of those, waiting for reads
  uint64_t tokens = 0;
  uint64_t demand_bytes = 0;
  uint64_t speculative_bytes = 0;
  uint64_t wasted_bytes = 0;  // speculative, and not used at the layer's next visit
};

enum class Prediction {
  kNone,
  kPredictor,
  kPerfect,  // knows what the next layer chooses: the bound
};

// `predictor` is fresh, or null unless kPredictor.
ReplayTimes ReplayTimed(const RequestList& requests, const ReplayOptions& options,
                        const ReplayTiming& timing, EvictionPolicy* policy, Prediction prediction,
                        ExpertPredictor* predictor);

}  // namespace hostler
