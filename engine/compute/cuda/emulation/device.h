// What the emulated runtime's calls share: streams, events, captures, the device.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "engine/compute/cuda/emulation/emulation.h"
#include "engine/compute/cuda/emulation/memory.h"
#include "engine/compute/cuda/emulation/order_checker.h"

// One recording of an event.
struct Recording {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  hostler::cuda_emulation::Clock clock;  // what it waits for; fixed when recorded

  void Finish() {
    std::lock_guard lock(mutex);
    done = true;
    changed.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return done; });
  }
};

struct CUevent_st {
  std::shared_ptr<Recording> last;  // null: never recorded
  bool captured = false;            // its last record was
};

// An operation of a graph, which follows the one before it.
struct GraphNode {
  std::vector<hostler::cuda_emulation::Range> reads, writes;
  const char* what = "";
  std::function<void()> operation;
};
struct CUgraph_st {
  std::vector<GraphNode> nodes;
};
struct CUgraphExec_st {
  std::vector<GraphNode> nodes;
};

// What is queued on a stream meanwhile becomes nodes.
struct Capture {
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool valid = true;
  std::vector<GraphNode> nodes = {};
};

struct CUstream_st {
  int number = 0;
  hostler::cuda_emulation::Clock clock;  // of what is queued
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> queue;
  uint64_t queued = 0, done = 0;
  bool ends = false;
  std::unique_ptr<Capture> capture;  // guarded by the device's mutex
  std::thread thread;
};

namespace hostler::cuda_emulation {

// What belongs to the device. `mutex` guards all but `memory`.
struct Device {
  std::mutex mutex;
  Memory memory;
  OrderChecker checker;
  Clock host;  // what the host has waited for, whichever thread
  std::vector<CUstream_st*> streams;
  int streams_made = 0;
  Faults faults;
  cudaError_t ruined = cudaSuccess;
  Counts counts;
};

Device& device();

// Remembers an error for cudaGetLastError.
cudaError_t Note(cudaError_t error);
cudaError_t Ruined();
// Counts down to a call that fails.
inline bool Fails(int& countdown) { return countdown > 0 && --countdown == 0; }

struct Used {
  std::span<const Range> reads, writes;
};
// Queues an operation, or captures it. REQUIRES: the device's mutex is held.
void Queue(CUstream_st* stream, Used used, const char* what, std::function<void()> operation);

// The calling thread's error when it makes a call that a capture of its own forbids, and
// that capture is spoilt. REQUIRES: the device's mutex is held.
cudaError_t RefuseWhileCapturing();
// Likewise, for calls that need a stream or event that is not captured.
cudaError_t RefuseIfCapturing(CUstream_st* stream);
cudaError_t RefuseIfCaptured(const CUevent_st* event);

}  // namespace hostler::cuda_emulation
