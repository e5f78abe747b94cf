// GraphCounts: how a backend queued its operations on a device that has graphs.
#pragma once

#include <cstdint>

namespace hostler {

// Runs of operations between two points where the host waits or cuts. Only grows.
struct GraphCounts {
  uint64_t plain = 0;     // queued one by one
  uint64_t replayed = 0;  // queued as a graph
  uint64_t captured = 0;  // graphs made
  uint64_t failed = 0;    // could not be captured
};

}  // namespace hostler
