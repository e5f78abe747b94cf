#include "engine/compute/cuda/run_graphs.h"

#include <algorithm>
#include <cstring>

namespace hostler {
namespace {

// Eight bytes at a time (FNV's steps with a finaliser's shifts). REQUIRES: whole words.
uint64_t HashOf(std::span<const std::byte> bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace

RunGraphs::~RunGraphs() {
  for (const Graph& graph : graphs_) cudaGraphExecDestroy(graph.executable);
}

cudaError_t RunGraphs::Queue(std::span<const std::byte> run, size_t launches, cudaStream_t stream,
                             const std::function<cudaError_t()>& queue,
                             const std::function<cudaError_t(cudaGraphExec_t)>& replay) {
  ++runs_;
  const auto plainly = [&] {
    ++counts_.plain;
    return queue();
  };
  if (launches < kLeastLaunches) return plainly();
  const uint64_t hash = HashOf(run);
  if (const auto found = by_hash_.find(hash); found != by_hash_.end()) {
    Graph& graph = *found->second;
    if (!std::equal(run.begin(), run.end(), graph.run.begin(), graph.run.end())) return plainly();
    graphs_.splice(graphs_.begin(), graphs_, found->second);
    graph.used = runs_;
    ++counts_.replayed;
    return replay(graph.executable);
  }
  // Captured when it comes the second time: most prompts' runs never do.
  if (seen_.size() >= kMostSeen) seen_.clear();
  const auto [seen, is_new] = seen_.try_emplace(hash, false);
  if (is_new || seen->second || !MakeRoom()) return plainly();
  cudaGraphExec_t executable = Capture(stream, queue);
  if (executable == nullptr) {
    seen->second = true;
    ++counts_.failed;
    return plainly();
  }
  graphs_.push_front({hash, {run.begin(), run.end()}, executable, runs_});
  by_hash_[hash] = graphs_.begin();
  ++counts_.captured;
  ++counts_.replayed;
  return replay(executable);
}

// Graphs in use are not dropped for one another in turns.
bool RunGraphs::MakeRoom() {
  if (graphs_.size() < kMostGraphs) return true;
  if (graphs_.back().used + kIdleRuns > runs_) return false;
  cudaGraphExecDestroy(graphs_.back().executable);
  by_hash_.erase(graphs_.back().hash);
  graphs_.pop_back();
  return true;
}

cudaGraphExec_t RunGraphs::Capture(cudaStream_t stream, const std::function<cudaError_t()>& queue) {
  // Other threads allocate and wait meanwhile.
  if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  const cudaError_t queued = queue();
  cudaGraph_t graph = nullptr;
  cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (queued != cudaSuccess) error = queued;
  cudaGraphExec_t executable = nullptr;
  if (error == cudaSuccess) error = cudaGraphInstantiate(&executable, graph, 0);
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (error == cudaSuccess) return executable;
  cudaGetLastError();
  return nullptr;
}

}  // namespace hostler
