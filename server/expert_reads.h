// The expert cache's reads by who asked for them.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "cache/expert_cache.h"

namespace hostler {

// One class of reads. Counters are since the start.
struct ExpertReads {
  std::string_view name;  // "demand": a step waits; "speculative": a guess; "preload"
  uint64_t reads = 0;     // those begun again after an error too
  uint64_t bytes = 0;
  int in_flight = 0;
  int queued = 0;
};

std::array<ExpertReads, 3> ReadsByClass(const ExpertCacheStats& stats);

}  // namespace hostler
