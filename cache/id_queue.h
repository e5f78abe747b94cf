// A queue of small numbers that allocates once.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace hostler {

// First in, first out. REQUIRES: at most `bound` numbers at a time.
class IdQueue {
 public:
  explicit IdQueue(size_t bound) : ids_(bound) {}

  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }
  int front() const { return ids_[first_]; }
  void Push(int id) { ids_[(first_ + size_++) % ids_.size()] = id; }
  int Pop() {
    --size_;
    return ids_[std::exchange(first_, (first_ + 1) % ids_.size())];
  }

 private:
  std::vector<int> ids_;
  size_t first_ = 0, size_ = 0;
};

}  // namespace hostler
