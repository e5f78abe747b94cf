// What an ExpertCache counts: written under its lock, read without it.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "cache/expert_cache.h"
#include "cache/latency.h"
#include "cache/prefetch_governor.h"

namespace hostler {

// Each thing is counted once, so that no sum or difference of them ever falls.
struct CacheCounters {
  std::atomic<uint64_t> demand_hits{0}, demand_misses{0};  // those without a guess
  std::atomic<uint64_t> evictions{0}, read_errors{0}, read_retries{0};
  std::atomic<uint64_t> demand_reads{0}, demand_bytes{0};
  std::atomic<uint64_t> speculative_reads{0}, speculative_bytes{0};
  std::atomic<uint64_t> speculative_hits{0}, speculative_late{0};
  std::atomic<uint64_t> speculative_wasted{0}, speculative_wasted_bytes{0};
  std::atomic<uint64_t> speculative_useful_bytes{0}, preload_reads{0}, preload_bytes{0};
  std::atomic<uint64_t> copies{0}, copied_bytes{0}, promotions{0};
  std::atomic<uint64_t> host_experts{0}, host_rows{0};
  std::atomic<int64_t> stall_ns{0};
  LatencyRecorder demand_latency;
  std::atomic<uint64_t> capacity_bytes{0};
  std::atomic<int> reads_in_flight{0}, reads_queued{0};
  std::atomic<float> least_chance{PrefetchGovernor::kNever};  // the governor's report
  std::atomic<int> prefetch_trials{0};
  std::atomic<double> prefetch_difference{0};
  std::atomic<int> speculative_in_flight{0}, speculative_queued{0};
  std::atomic<int> preloads_left{0}, preloads_in_flight{0};
  std::atomic<int> pinned_slots{0};
  std::vector<std::atomic<int>> resident;  // [layers], slots; pinned ones included

  uint64_t hits() const { return demand_hits + speculative_hits; }
  uint64_t misses() const { return demand_misses + speculative_late; }
  uint64_t read_bytes() const { return demand_bytes + speculative_bytes + preload_bytes; }

  // All but what slots say, here and beneath.
  ExpertCacheStats Read() const;
};

}  // namespace hostler
