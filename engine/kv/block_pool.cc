#include "engine/kv/block_pool.h"

#include <cassert>

namespace hostler {

BlockPool::BlockPool(int num_blocks) : refs_(num_blocks, 0) {
  free_.reserve(num_blocks);
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

std::optional<int32_t> BlockPool::Allocate() {
  if (free_.empty()) return std::nullopt;
  const int32_t block = free_.back();
  free_.pop_back();
  refs_[block] = 1;
  return block;
}

void BlockPool::Release(int32_t block) {
  assert(refs_[block] > 0);
  if (--refs_[block] == 0) free_.push_back(block);
}

}  // namespace hostler
