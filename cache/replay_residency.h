#pragma once

#include <vector>

#include "cache/replay.h"

namespace hostler {

// Who is resident; asks the policy for room.
class Residency {
 public:
  Residency(const RequestList& requests, const ReplayOptions& options, EvictionPolicy* policy)
      : shape_(requests.shape()),
        capacity_(options.capacity),
        members_leave_(options.members_leave),
        policy_(policy),
        resident_(size_t(shape_.layers) * shape_.experts),
        member_(resident_.size()) {}

  bool has(ExpertKey key) const { return resident_[Index(key)]; }

  // Until the next call no expert of `request` is a victim, unless
  // members_leave.
  void Begin(const ExpertRequest& request) {
    for (const size_t i : members_) member_[i] = 0;
    members_.clear();
    for (const int expert : request.experts) {
      members_.push_back(Index({request.layer, expert}));
      member_[members_.back()] = 1;
    }
    policy_->OnRequest(request);
  }

  // False: `key` is not kept. `ask`: the policy may refuse it.
  bool Insert(ExpertKey key, ExpertKey* victim, bool* evicted, bool ask = true) {
    *evicted = false;
    if (used_ == capacity_) {
      const auto evictable = [this](ExpertKey k) { return members_leave_ || !member_[Index(k)]; };
      if (!policy_->PickVictim(evictable, victim)) return false;
      if (ask && !policy_->Admits(key, *victim)) return false;
      resident_[Index(*victim)] = 0;
      policy_->OnErase(*victim);
      *evicted = true;
      --used_;
    }
    resident_[Index(key)] = 1;
    policy_->OnInsert(key);
    ++used_;
    return true;
  }

  size_t Index(ExpertKey key) const { return size_t(key.layer) * shape_.experts + key.expert; }

 private:
  const PolicyShape shape_;
  const int64_t capacity_;
  const bool members_leave_;
  EvictionPolicy* const policy_;
  int64_t used_ = 0;
  std::vector<uint8_t> resident_;
  std::vector<uint8_t> member_;
  std::vector<size_t> members_;
};

}  // namespace hostler
