// MergeQueue: which pair of a word is merged next.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <unordered_map>
#include <utility>
#include <vector>

namespace hostler {

// Yields (rank, position) in ascending order. Positions of a rank nearly
// always arrive in order, because a word is merged from left to right; so each
// rank keeps a plain list, and a heap only for what came out of order. That
// makes a million equal letters cost a million steps, not n log n.
class MergeQueue {
 public:
  void Push(uint32_t rank, uint32_t position) {
    Bucket& bucket = BucketOf(rank);
    if (bucket.empty()) ranks_.push(rank);
    if (bucket.next == bucket.in_order.size()) {
      bucket.in_order.clear();
      bucket.next = 0;
    }
    if (bucket.in_order.empty() || bucket.in_order.back() <= position) {
      bucket.in_order.push_back(position);
    } else {
      bucket.late.push(position);
    }
  }

  bool Pop(uint32_t* rank, uint32_t* position) {
    if (ranks_.empty()) return false;
    *rank = ranks_.top();
    Bucket& bucket = BucketOf(*rank);
    const bool has_ordered = bucket.next < bucket.in_order.size();
    if (!bucket.late.empty() &&
        (!has_ordered || bucket.late.top() < bucket.in_order[bucket.next])) {
      *position = bucket.late.top();
      bucket.late.pop();
    } else {
      *position = bucket.in_order[bucket.next++];
    }
    if (bucket.empty()) ranks_.pop();
    return true;
  }

 private:
  template <typename T>
  using MinHeap = std::priority_queue<T, std::vector<T>, std::greater<T>>;

  struct Bucket {
    std::vector<uint32_t> in_order;
    size_t next = 0;  // of in_order
    MinHeap<uint32_t> late;
    bool empty() const { return next == in_order.size() && late.empty(); }
  };

  Bucket& BucketOf(uint32_t rank) {
    if (last_ == nullptr || last_rank_ != rank) {
      last_ = &buckets_[rank];  // nodes of a map do not move
      last_rank_ = rank;
    }
    return *last_;
  }

  std::unordered_map<uint32_t, Bucket> buckets_;
  MinHeap<uint32_t> ranks_;  // of the buckets that are not empty
  Bucket* last_ = nullptr;
  uint32_t last_rank_ = 0;
};

}  // namespace hostler
