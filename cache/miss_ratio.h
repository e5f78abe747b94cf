// What share of lookups an expert cache of any size would miss: what more
// memory would buy, estimated while serving.
//
// A shadow score stands for the policy that serves: the moving average of use
// that `ema` evicts by. Scores do not depend on the capacity, so one pass gives
// all capacities at once (a priority stack: Mattson et al. 1970): an expert
// would be resident where the experts that score higher leave room for it. Only
// how many bytes score higher is kept, as a histogram over scores, which makes
// a request cost one look at each expert of its layer. Experts are so few that
// none is left out (SHARDS, Waldspurger et al. 2015, samples what it follows). What the
// serving policy, prefetch and pins do better or worse is taken from the hits
// seen at the capacity there is: the curve goes through that point.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cache/policy.h"

namespace hostler {

struct MissRatioPoint {
  uint64_t bytes = 0;     // that slots may take
  double miss_ratio = 0;  // 0 to 1
};

// Not thread-safe; allocates only when made and in Curve(). Prompts train it but
// are not counted: they ask for nearly everything.
class MissRatioEstimator {
 public:
  struct Layer {
    int experts = 0;
    uint64_t slot_bytes = 0;
  };
  explicit MissRatioEstimator(std::span<const Layer> layers);

  // A request of which `hits` experts were resident in `capacity_bytes`.
  // REQUIRES: layer and experts are within the shape.
  void OnRequest(const ExpertRequest& request, int hits, uint64_t capacity_bytes);

  // From no memory to slots for all experts, by size; never rising. Recent
  // requests weigh more. Empty until a token was decoded.
  std::vector<MissRatioPoint> Curve() const;

 private:
  static constexpr int kBins = 512;     // of scores
  static constexpr int kBuckets = 128;  // of bytes

  static int BinOf(float score);
  void Count(int bin);
  void Age();
  double ShadowHits(uint64_t bytes) const;

  std::vector<Layer> layers_;
  std::vector<size_t> first_;   // [layers], into the next two
  std::vector<float> scores_;   // [layers][experts]
  std::vector<uint16_t> bins_;  // of the scores
  std::vector<float> added_;    // [experts], by the running request
  std::vector<uint64_t> bytes_in_bin_ = std::vector<uint64_t>(kBins);
  std::vector<uint64_t> bytes_above_ = std::vector<uint64_t>(kBins);  // during a request
  uint64_t all_bytes_ = 0;
  // Decode lookups that hit with so many buckets and not with fewer; the rest
  // hits only with everything resident.
  std::vector<double> hits_ = std::vector<double>(kBuckets);
  double lookups_ = 0;
  int64_t requests_ = 0;  // since the counts were aged
  // What was seen at `capacity_`.
  uint64_t capacity_ = 0;
  double seen_lookups_ = 0, seen_hits_ = 0;
};

// The miss ratio at `bytes`, between the points of `curve`. REQUIRES: not empty.
double MissRatioAt(std::span<const MissRatioPoint> curve, uint64_t bytes);

// What more memory than `capacity_bytes` would buy, for an operator: "with 2 GiB
// more: 91% hits (84% now)". Proposes at least an eighth more. Empty for an
// empty curve.
std::string DescribeMoreMemory(std::span<const MissRatioPoint> curve, uint64_t capacity_bytes);

}  // namespace hostler
