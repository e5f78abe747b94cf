// Accounts for KV blocks: which are free, and how many sequences share one.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace hostler {

// Block numbers, not memory. A block is free, in use (it has references) or kept:
// nobody uses it, and what it holds may be wanted again. Those from limit() on are
// not given out, so that their memory can serve something else. Not thread-safe
// (the engine loop's).
class BlockPool {
 public:
  explicit BlockPool(int num_blocks) : BlockPool(num_blocks, num_blocks) {}
  BlockPool(int num_blocks, int limit);

  // The lowest free block, with one reference; nullopt when there is none.
  std::optional<int32_t> Allocate();
  // To a block in use or kept.
  void AddRef(int32_t block);
  // With its last reference the block becomes free, or kept.
  void Release(int32_t block, bool keep = false);
  // A kept block becomes free.
  void Free(int32_t block);

  // At most the number of blocks. Blocks in use stay valid. REQUIRES: none is
  // kept from there on.
  void set_limit(int limit);
  int limit() const { return limit_; }
  int most() const { return static_cast<int>(refs_.size()); }
  int free() const { return static_cast<int>(free_.size()); }
  int used() const { return used_; }
  int kept() const { return kept_; }
  bool in_use(int32_t block) const { return refs_[block] > 0; }

 private:
  static constexpr int kKept = -1;  // instead of references

  void PutFree(int32_t block);

  std::vector<int> refs_;
  std::vector<int32_t> free_;  // a heap, the lowest first
  int limit_;
  int used_ = 0;
  int kept_ = 0;
};

}  // namespace hostler
