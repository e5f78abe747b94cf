// Runs of kernels that came before, kept as graphs. What a run is, kernels, grids and
// every parameter, is compared with what was captured: a graph does what queueing the
// run would have done, or is not used.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/compute/cuda/launch.h"

namespace hostler {

// One thread.
class RunGraphs {
 public:
  RunGraphs() = default;
  RunGraphs(const RunGraphs&) = delete;
  RunGraphs& operator=(const RunGraphs&) = delete;
  ~RunGraphs();

  // Queues a run on the stream: by `queue`, which does it one kernel after another, or
  // by `replay`ing the graph that was captured from it.
  cudaError_t Queue(std::span<const std::byte> run, size_t launches, cudaStream_t stream,
                    const std::function<cudaError_t()>& queue,
                    const std::function<cudaError_t(cudaGraphExec_t)>& replay);
  GraphCounts counts() const { return counts_; }

 private:
  // Shorter runs are queued as fast.
  static constexpr size_t kLeastLaunches = 3;
  // Graphs that are kept, and runs after which one may be dropped for another.
  static constexpr size_t kMostGraphs = 1024;
  static constexpr uint64_t kIdleRuns = 4096;
  static constexpr size_t kMostSeen = 8192;

  struct Graph {
    uint64_t hash = 0;
    std::vector<std::byte> run;
    cudaGraphExec_t executable = nullptr;
    uint64_t used = 0;
  };

  // Null when it cannot be captured.
  cudaGraphExec_t Capture(cudaStream_t stream, const std::function<cudaError_t()>& queue);
  bool MakeRoom();

  std::list<Graph> graphs_;  // the last used first
  std::unordered_map<uint64_t, std::list<Graph>::iterator> by_hash_;
  std::unordered_map<uint64_t, bool> seen_;  // hash → whether capturing failed
  uint64_t runs_ = 0;
  GraphCounts counts_;
};

}  // namespace hostler
