// Finds operations on the same memory that nothing orders, from what is queued and
// not from when it happens to run: a race shows whether it does harm or not.
//
// Each stream counts its operations. An operation knows how far every stream had come
// when it may start: what its own stream did before, what the events it waited for
// saw, and what the host had waited for when it queued it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/compute/cuda/emulation/emulation.h"

namespace hostler::cuda_emulation {

// How far each stream has come, by the stream's number.
class Clock {
 public:
  uint64_t of(int stream) const { return stream < int(seen_.size()) ? seen_[stream] : 0; }
  void Reach(int stream, uint64_t operation);
  void Merge(const Clock& other);

 private:
  std::vector<uint64_t> seen_;
};

// Not thread-safe.
class OrderChecker {
 public:
  // Notes that operation `operation` of a stream, which may start at `start`, uses
  // the range. stream -1: the host.
  void Use(int stream, uint64_t operation, const Clock& start, const Range& range, bool writes,
           const char* what);
  // The range is no more, or new.
  void Forget(const Range& range);

  std::vector<std::string> TakeRaces() { return std::exchange(races_, {}); }

 private:
  struct Access {
    int stream = -1;
    uint64_t operation = 0;
    const char* what = "";
  };
  struct Segment {
    uintptr_t end = 0;
    Access written;
    std::vector<Access> read;  // since then, one for each stream
  };

  // So that segments begin and end at the range's ends; the first one.
  std::map<uintptr_t, Segment>::iterator Split(uintptr_t begin, uintptr_t end);
  void Report(const Access& before, const char* what, uintptr_t begin, uintptr_t end);

  std::map<uintptr_t, Segment> segments_;  // by begin; they do not overlap
  std::vector<std::string> races_;
};

}  // namespace hostler::cuda_emulation
