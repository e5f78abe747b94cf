// What tests ask of the emulated device: injected failures, and what its checker saw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cuda_runtime.h"

namespace hostler::cuda_emulation {

// Memory that an operation reads or writes.
struct Range {
  const void* data = nullptr;
  size_t bytes = 0;
};

struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  // No thread waits for another: they run one after another, without stacks of
  // their own.
  bool independent = false;
  std::span<const Range> reads, writes;
};

// Queues `kernel` for every thread of the grid. Errors: InvalidConfiguration;
// LaunchOutOfResources when told to fail.
cudaError_t LaunchKernel(const Launch& launch, cudaStream_t stream, std::function<void()> kernel);

// What a kernel of a graph uses this time; what it said when it was captured may be less.
struct NodeUses {
  std::span<const Range> reads, writes;
};
// cudaGraphLaunch of a graph whose nodes are kernels, one for each of `uses`.
cudaError_t LaunchGraph(cudaGraphExec_t graph, cudaStream_t stream, std::span<const NodeUses> uses);

// The n-th call from now fails; 0: none does.
struct Faults {
  int allocation = 0;     // cudaMalloc, cudaMallocHost
  int launch = 0;         // returns an error, does nothing; a graph's is one
  int copy = 0;           // likewise
  int capture = 0;        // is invalid when it ends
  int broken_copy = 0;    // succeeds, then ruins what it should have written and the device
  int copy_delay_ms = 0;  // of every copy
};
void SetFaults(const Faults& faults);

// Repairs a ruined device, as a new process would. REQUIRES: all streams are idle.
void Reset();

// Pairs of operations that touch the same memory, one of them writing, without an
// order between them, since the last call. Text, a few at most.
std::vector<std::string> TakeRaces();

// The host itself reads or writes memory that operations use: checked likewise.
void HostAccess(const void* data, size_t bytes, bool writes);

// From now on the host faults when it touches device memory while the device is idle.
void GuardDeviceMemory(bool guard);

struct Counts {
  uint64_t launches = 0, copies = 0, copied_bytes = 0;  // those in graphs left out
  uint64_t captures = 0, graph_launches = 0;
  uint64_t allocations = 0, waits = 0;  // host calls that wait for the device
};
Counts CountsSoFar();

}  // namespace hostler::cuda_emulation
