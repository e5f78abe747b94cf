#include "cache/cache_counters.h"

namespace hostler {

ExpertCacheStats CacheCounters::Read() const {
  // Each is loaded once, and sums are made of what was loaded: a sum less its
  // other parts is then a counter that never falls, though steps go on meanwhile.
  ExpertCacheStats stats;
  stats.evictions = evictions;
  stats.read_errors = read_errors;
  stats.read_retries = read_retries;
  stats.stall_seconds = static_cast<double>(stall_ns) * 1e-9;
  stats.speculative_reads = speculative_reads;
  stats.speculative_bytes = speculative_bytes;
  stats.speculative_hits = speculative_hits;
  stats.speculative_late = speculative_late;
  stats.speculative_wasted = speculative_wasted;
  stats.speculative_wasted_bytes = speculative_wasted_bytes;
  stats.speculative_useful_bytes = speculative_useful_bytes;
  stats.preload_reads = preload_reads;
  stats.preload_bytes = preload_bytes;
  stats.copies = copies;
  stats.copied_bytes = copied_bytes;
  stats.promotions = promotions;
  stats.host_experts = host_experts;
  stats.host_rows = host_rows;
  stats.hits = demand_hits + stats.speculative_hits;
  stats.misses = demand_misses + stats.speculative_late;
  stats.reads = demand_reads + stats.speculative_reads + stats.preload_reads;
  stats.read_bytes = demand_bytes + stats.speculative_bytes + stats.preload_bytes;
  stats.preloads_left = preloads_left;
  stats.preloads_in_flight = preloads_in_flight;
  stats.reads_in_flight = reads_in_flight;
  stats.reads_queued = reads_queued;
  stats.speculative_in_flight = speculative_in_flight;
  stats.speculative_queued = speculative_queued;
  stats.capacity_bytes = capacity_bytes;
  stats.prefetch = {least_chance, prefetch_trials, prefetch_difference};
  stats.pinned_slots = pinned_slots;
  return stats;
}

}  // namespace hostler
