// Accounts for KV blocks: which are free, and how many sequences share one.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace hostler {

// Block numbers, not memory. Those from limit() on are not given out, so that
// their memory can serve something else. Not thread-safe (the engine loop's).
class BlockPool {
 public:
  explicit BlockPool(int num_blocks) : BlockPool(num_blocks, num_blocks) {}
  BlockPool(int num_blocks, int limit);

  // The lowest free block, with one reference; nullopt when there is none.
  std::optional<int32_t> Allocate();
  void AddRef(int32_t block) { ++refs_[block]; }
  // The block becomes free with its last reference.
  void Release(int32_t block);

  // At most the number of blocks. Blocks in use stay valid.
  void set_limit(int limit);
  int limit() const { return limit_; }
  int most() const { return static_cast<int>(refs_.size()); }
  int free() const { return static_cast<int>(free_.size()); }
  int used() const { return used_; }

 private:
  std::vector<int> refs_;
  std::vector<int32_t> free_;  // a heap, the lowest first
  int limit_;
  int used_ = 0;
};

}  // namespace hostler
