#include "server/expert_reads.h"

#include <algorithm>

namespace hostler {

std::array<ExpertReads, 3> ReadsByClass(const ExpertCacheStats& stats) {
  const ExpertReads speculative = {"speculative", stats.speculative_reads, stats.speculative_bytes,
                                   stats.speculative_in_flight, stats.speculative_queued};
  const ExpertReads preload = {"preload", stats.preload_reads, stats.preload_bytes,
                               stats.preloads_in_flight, stats.preloads_left};
  // Gauges are not all of one moment.
  const ExpertReads demand = {
      "demand", stats.reads - speculative.reads - preload.reads,
      stats.read_bytes - speculative.bytes - preload.bytes,
      std::max(0, stats.reads_in_flight - speculative.in_flight - preload.in_flight),
      std::max(0, stats.reads_queued - speculative.queued)};
  return {demand, speculative, preload};
}

}  // namespace hostler
