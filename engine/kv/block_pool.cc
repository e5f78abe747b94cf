#include "engine/kv/block_pool.h"

#include <algorithm>
#include <cassert>
#include <functional>

namespace hostler {

BlockPool::BlockPool(int num_blocks, int limit) : refs_(num_blocks, 0), limit_(0) {
  free_.reserve(num_blocks);
  set_limit(limit);
}

std::optional<int32_t> BlockPool::Allocate() {
  if (free_.empty()) return std::nullopt;
  std::pop_heap(free_.begin(), free_.end(), std::greater<>());
  const int32_t block = free_.back();
  free_.pop_back();
  refs_[block] = 1;
  ++used_;
  return block;
}

void BlockPool::AddRef(int32_t block) {
  assert(refs_[block] != 0);
  if (refs_[block] == kKept) {
    refs_[block] = 0;
    --kept_;
    ++used_;
  }
  ++refs_[block];
}

void BlockPool::Release(int32_t block, bool keep) {
  assert(refs_[block] > 0);
  if (--refs_[block] > 0) return;
  --used_;
  if (keep) {
    refs_[block] = kKept;
    ++kept_;
  } else {
    PutFree(block);
  }
}

void BlockPool::Free(int32_t block) {
  assert(refs_[block] == kKept);
  refs_[block] = 0;
  --kept_;
  PutFree(block);
}

void BlockPool::PutFree(int32_t block) {
  if (block >= limit_) return;
  free_.push_back(block);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

void BlockPool::set_limit(int limit) {
  limit_ = std::clamp(limit, 0, most());
  free_.clear();
  for (int32_t block = 0; block < limit_; ++block) {
    if (refs_[block] == 0) free_.push_back(block);
  }
}

}  // namespace hostler
