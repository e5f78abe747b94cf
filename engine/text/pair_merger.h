// PairMerger: merges neighbouring tokens pair by pair, best pair first. What
// both kinds of byte-pair encoding have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace hostler {

// Immutable once filled; then any thread.
class PairMerger {
 public:
  // `pairs`: how many will be set, about.
  explicit PairMerger(size_t pairs);

  // The tokens `left`, `right` become `whole`; pairs of smaller `rank` first,
  // among equals the leftmost. A pair set twice keeps the later. REQUIRES: ids
  // are not negative.
  void Set(int32_t left, int32_t right, uint32_t rank, int32_t whole);

  // Merges what it can of (*ids)[first…]. Nearly linear.
  void Merge(std::vector<int32_t>* ids, size_t first) const;

 private:
  static constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
  // Up to here looking at every pair for every merge is the faster way.
  static constexpr size_t kShortWord = 32;

  struct Pair {
    uint32_t rank = kNoRank;  // kNoRank: the pair does not merge
    int32_t whole = -1;
  };

  struct Slot {
    uint64_t key = ~uint64_t{0};  // no pair has it: ids are not negative
    Pair pair;
  };

  Pair Find(int32_t left, int32_t right) const;
  size_t Locate(uint64_t key) const;
  void Grow();
  void MergeShort(std::vector<int32_t>* ids, size_t first) const;
  void MergeLong(std::vector<int32_t>* ids, size_t first) const;

  std::vector<Slot> slots_;  // open addressing, a power of two at most half full
  size_t used_ = 0;
};

}  // namespace hostler
