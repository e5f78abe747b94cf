#include <algorithm>
#include <limits>
#include <set>

#include "cache/replay.h"

namespace hostler {
namespace {

constexpr int kNever = std::numeric_limits<int>::max();

class BeladyPolicy : public EvictionPolicy {
 public:
  BeladyPolicy(const RequestList& requests, bool cold, bool bypass)
      : experts_(requests.shape().experts),
        bypass_(bypass),
        uses_(size_t(requests.shape().layers) * experts_),
        passed_(uses_.size()),
        resident_(uses_.size()) {
    int number = 0;
    for (const auto& [decode, request] : requests.items()) {
      if (!decode && cold) continue;
      for (const int expert : request.experts) {
        uses_[Index({request.layer, expert})].push_back(number);
      }
      ++number;
    }
  }

  std::string_view name() const override { return bypass_ ? "belady_bypass" : "belady"; }

  void OnRequest(const ExpertRequest& request) override {
    for (const int expert : request.experts) {
      const size_t i = Index({request.layer, expert});
      if (resident_[i]) queue_.erase({NextUse(i), i});
      ++passed_[i];
      if (resident_[i]) queue_.insert({NextUse(i), i});
    }
  }

  void OnInsert(ExpertKey key) override {
    const size_t i = Index(key);
    resident_[i] = 1;
    queue_.insert({NextUse(i), i});
  }

  void OnErase(ExpertKey key) override {
    const size_t i = Index(key);
    resident_[i] = 0;
    queue_.erase({NextUse(i), i});
  }

  bool PickVictim(const std::function<bool(ExpertKey)>& evictable, ExpertKey* victim) override {
    for (auto it = queue_.rbegin(); it != queue_.rend(); ++it) {
      const ExpertKey key{static_cast<int>(it->second / experts_),
                          static_cast<int>(it->second % experts_)};
      if (!evictable(key)) continue;
      *victim = key;
      return true;
    }
    return false;
  }

  bool Admits(ExpertKey incoming, ExpertKey victim) const override {
    return !bypass_ || NextUse(Index(incoming)) <= NextUse(Index(victim));
  }

 private:
  size_t Index(ExpertKey key) const { return size_t(key.layer) * experts_ + key.expert; }
  int NextUse(size_t i) const {
    return passed_[i] < uses_[i].size() ? uses_[i][passed_[i]] : kNever;
  }

  const int experts_;
  const bool bypass_;
  std::vector<std::vector<int>> uses_;  // numbers of the requests, by expert
  std::vector<size_t> passed_;          // how many of those are past
  std::vector<uint8_t> resident_;
  std::set<std::pair<int, size_t>> queue_;  // residents by their next use
};

}  // namespace

std::unique_ptr<EvictionPolicy> NewBeladyPolicy(const RequestList& requests, bool cold,
                                                bool bypass) {
  return std::make_unique<BeladyPolicy>(requests, cold, bypass);
}

}  // namespace hostler
