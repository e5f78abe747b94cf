#include "router/policy/conversations.h"

#include <algorithm>

namespace hostler {
namespace {

constexpr int kMaxTargets = 64;
// Longer conversations are remembered by their last messages.
constexpr size_t kMaxMessages = 32;

std::span<const RouteFeatures::Prefix> Last(std::span<const RouteFeatures::Prefix> prefixes) {
  return prefixes.last(std::min(prefixes.size(), kMaxMessages));
}

}  // namespace

void Conversations::Add(std::span<const RouteFeatures::Prefix> prefixes, int target) {
  if (target < 0 || target >= kMaxTargets) return;
  std::lock_guard lock(mutex_);
  for (const RouteFeatures::Prefix& prefix : Last(prefixes)) {
    const auto found = entries_.find(prefix.hash);
    if (found != entries_.end()) {
      found->second->targets |= uint64_t{1} << target;
      recent_.splice(recent_.begin(), recent_, found->second);
      continue;
    }
    recent_.push_front({prefix.hash, uint64_t{1} << target});
    entries_[prefix.hash] = recent_.begin();
    if (entries_.size() <= capacity_) continue;
    entries_.erase(recent_.back().hash);
    recent_.pop_back();
  }
}

void Conversations::Find(std::span<const RouteFeatures::Prefix> prefixes, std::span<int> tokens) {
  std::fill(tokens.begin(), tokens.end(), 0);
  std::lock_guard lock(mutex_);
  for (const RouteFeatures::Prefix& prefix : Last(prefixes)) {
    const auto found = entries_.find(prefix.hash);
    if (found == entries_.end()) continue;
    for (size_t i = 0; i < tokens.size() && i < kMaxTargets; ++i) {
      if (found->second->targets >> i & 1) tokens[i] = std::max(tokens[i], prefix.tokens);
    }
  }
}

}  // namespace hostler
