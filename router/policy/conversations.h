// Conversations: which target's prefix cache should hold what.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <span>
#include <unordered_map>

#include "router/policy.h"

namespace hostler {

// A guess from what was sent where: it forgets the oldest, and what a target
// forgets it does not see. Thread-safe.
class Conversations {
 public:
  explicit Conversations(size_t capacity = 65536) : capacity_(capacity) {}

  // The target with this index has computed that conversation.
  void Add(std::span<const RouteFeatures::Prefix> prefixes, int target);

  // Tokens of the longest prefix that each target has; `tokens` is by index.
  void Find(std::span<const RouteFeatures::Prefix> prefixes, std::span<int> tokens);

 private:
  struct Entry {
    uint64_t hash;
    uint64_t targets;  // bit i: the target with index i; those from 64 on are not kept
  };

  const size_t capacity_;
  std::mutex mutex_;         // guards all below
  std::list<Entry> recent_;  // the last used first
  std::unordered_map<uint64_t, std::list<Entry>::iterator> entries_;
};

}  // namespace hostler
