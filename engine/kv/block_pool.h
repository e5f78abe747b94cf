// Accounts for KV blocks: which are free, and how many sequences share one.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace hostler {

// Block numbers, not memory. Not thread-safe (the engine loop's).
class BlockPool {
 public:
  explicit BlockPool(int num_blocks);

  // A free block, with one reference; nullopt when there is none.
  std::optional<int32_t> Allocate();
  void AddRef(int32_t block) { ++refs_[block]; }
  // The block becomes free with its last reference.
  void Release(int32_t block);

  int total() const { return static_cast<int>(refs_.size()); }
  int free() const { return static_cast<int>(free_.size()); }

 private:
  std::vector<int> refs_;
  std::vector<int32_t> free_;  // a stack; lower numbers first at the start
};

}  // namespace hostler
