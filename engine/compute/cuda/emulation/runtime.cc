// The runtime's calls. Each stream is a thread that does what is queued, in order.
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/compute/cuda/emulation/device.h"
#include "engine/compute/cuda/emulation/emulation.h"
#include "engine/compute/cuda/emulation/threads.h"

namespace hostler::cuda_emulation {

Device& device() {
  static Device* const device = new Device;
  return *device;
}

static thread_local cudaError_t last_error = cudaSuccess;

cudaError_t Note(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

namespace {

void Serve(CUstream_st* stream) {
  std::unique_lock lock(stream->mutex);
  for (;;) {
    stream->changed.wait(lock, [&] { return stream->ends || !stream->queue.empty(); });
    if (stream->queue.empty()) return;
    std::function<void()> operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    lock.unlock();
    operation();
    device().memory.Leave();
    operation = nullptr;
    lock.lock();
    ++stream->done;
    stream->changed.notify_all();
  }
}

}  // namespace

void Queue(CUstream_st* stream, Used used, const char* what, std::function<void()> operation) {
  Device& d = device();
  if (stream->capture != nullptr) {
    GraphNode node = {{used.reads.begin(), used.reads.end()},
                      {used.writes.begin(), used.writes.end()},
                      what,
                      std::move(operation)};
    stream->capture->nodes.push_back(std::move(node));
    return;
  }
  d.memory.Enter();
  std::lock_guard lock(stream->mutex);
  const uint64_t number = ++stream->queued;
  stream->clock.Merge(d.host);
  for (const Range& range : used.reads) {
    d.checker.Use(stream->number, number, stream->clock, range, false, what);
  }
  for (const Range& range : used.writes) {
    d.checker.Use(stream->number, number, stream->clock, range, true, what);
  }
  stream->clock.Reach(stream->number, number);
  stream->queue.push_back(std::move(operation));
  stream->changed.notify_all();
}

cudaError_t Ruined() {
  std::lock_guard lock(device().mutex);
  return device().ruined;
}

namespace {

// Waits for what is queued now, and lets the host know of it.
void WaitFor(CUstream_st* stream) {
  Clock clock;
  {
    std::unique_lock lock(stream->mutex);
    const uint64_t queued = stream->queued;
    clock = stream->clock;
    stream->changed.wait(lock, [&] { return stream->done >= queued; });
  }
  std::lock_guard lock(device().mutex);
  device().host.Merge(clock);
}

void WaitForAll() {
  std::vector<CUstream_st*> streams;
  {
    std::lock_guard lock(device().mutex);
    streams = device().streams;
  }
  for (CUstream_st* stream : streams) WaitFor(stream);
}

cudaError_t Allocate(void** memory, size_t bytes, void* (Memory::*allocate)(size_t)) {
  if (const cudaError_t error = Ruined()) return Note(error);
  Device& d = device();
  {
    std::lock_guard lock(d.mutex);
    if (const cudaError_t error = RefuseWhileCapturing()) return Note(error);
    ++d.counts.allocations;
    if (Fails(d.faults.allocation)) return Note(cudaErrorMemoryAllocation);
  }
  *memory = (d.memory.*allocate)(bytes == 0 ? 1 : bytes);
  return *memory == nullptr ? Note(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t Free(void* memory, size_t (Memory::*free)(void*)) {
  if (memory == nullptr) return cudaSuccess;
  {
    std::lock_guard lock(device().mutex);
    if (const cudaError_t error = RefuseWhileCapturing()) return Note(error);
  }
  WaitForAll();
  const size_t bytes = (device().memory.*free)(memory);
  if (bytes == 0) return Note(cudaErrorInvalidValue);
  std::lock_guard lock(device().mutex);
  device().checker.Forget({memory, bytes});
  return cudaSuccess;
}

}  // namespace

void SetFaults(const Faults& faults) {
  std::lock_guard lock(device().mutex);
  device().faults = faults;
}

void Reset() {
  last_error = cudaSuccess;
  std::lock_guard lock(device().mutex);
  device().faults = {};
  device().ruined = cudaSuccess;
}

std::vector<std::string> TakeRaces() {
  std::lock_guard lock(device().mutex);
  return device().checker.TakeRaces();
}

void HostAccess(const void* data, size_t bytes, bool writes) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  d.checker.Use(-1, 0, d.host, {data, bytes}, writes,
                writes ? "the host's write" : "the host's read");
}

void GuardDeviceMemory(bool guard) { device().memory.Guard(guard); }

Counts CountsSoFar() {
  std::lock_guard lock(device().mutex);
  return device().counts;
}

cudaError_t LaunchKernel(const Launch& launch, cudaStream_t stream, std::function<void()> kernel) {
  constexpr unsigned kMostThreads = 1024, kMostY = 65535;
  constexpr size_t kMostShared = 48 << 10;
  if (const cudaError_t error = Ruined()) return Note(error);
  if (stream == nullptr) return Note(cudaErrorInvalidResourceHandle);
  const dim3 &grid = launch.grid, &block = launch.block;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > kMostY ||
      grid.z > kMostY || block.x == 0 || block.x > kMostThreads || block.y != 1 || block.z != 1 ||
      launch.shared_bytes > kMostShared) {
    return Note(cudaErrorInvalidConfiguration);
  }
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (Fails(d.faults.launch)) return Note(cudaErrorLaunchOutOfResources);
  if (stream->capture == nullptr) ++d.counts.launches;
  Launch kept = launch;
  kept.reads = kept.writes = {};
  Queue(stream, {launch.reads, launch.writes}, "a kernel",
        [kept, kernel = std::move(kernel)] { RunGrid(kept, kernel); });
  return cudaSuccess;
}

}  // namespace hostler::cuda_emulation

using namespace hostler::cuda_emulation;  // the definitions below are the header's

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorIllegalState:
      return "the operation cannot be performed in the present state";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureIsolation:
      return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent:
      return "operation not permitted on an event last recorded in a capturing stream";
    case cudaErrorStreamCaptureWrongThread:
      return "attempt to terminate a thread-local capture sequence from another thread";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorLaunchOutOfResources:
      return "too many resources requested for launch";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = Ruined();
  return error;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : Note(cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      return cudaSuccess;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
      *value = 1'000'000;
      return cudaSuccess;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 512;  // 128 GB/s
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 8;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
  }
  return Note(cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = device().memory.device_bytes_free();
  *total = kDeviceBytes;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return Note(cudaErrorInvalidDevice);
  std::strcpy(properties->name, "Hostler's emulation of CUDA");
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  return Allocate(memory, bytes, &Memory::AllocateDevice);
}
cudaError_t cudaFree(void* memory) { return Free(memory, &Memory::FreeDevice); }
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  return Allocate(memory, bytes, &Memory::AllocatePinned);
}
cudaError_t cudaFreeHost(void* memory) { return Free(memory, &Memory::FreePinned); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (const cudaError_t error = Ruined()) return Note(error);
  if (bytes == 0) return cudaSuccess;
  Device& d = device();
  const auto is_there = [&](const void* data, bool on_host) {
    return on_host ? d.memory.IsPinned(data, bytes) : d.memory.IsDevice(data, bytes);
  };
  // Copies of pageable memory are not asynchronous; nobody is to make any.
  if (stream == nullptr || !is_there(from, kind == cudaMemcpyHostToDevice) ||
      !is_there(to, kind == cudaMemcpyDeviceToHost)) {
    return Note(cudaErrorInvalidValue);
  }
  std::lock_guard lock(d.mutex);
  if (Fails(d.faults.copy)) return Note(cudaErrorInvalidValue);
  const bool breaks = Fails(d.faults.broken_copy);
  const int delay = d.faults.copy_delay_ms;
  if (stream->capture == nullptr) {
    ++d.counts.copies;
    d.counts.copied_bytes += bytes;
  }
  const Range read{from, bytes}, written{to, bytes};
  Queue(stream, {{&read, 1}, {&written, 1}}, "a copy", [=] {
    if (delay > 0) std::this_thread::sleep_for(std::chrono::milliseconds(delay));
    if (!breaks) {
      std::memcpy(to, from, bytes);
      return;
    }
    std::memset(to, 0xff, bytes);
    std::lock_guard lock(device().mutex);
    device().ruined = cudaErrorIllegalAddress;
  });
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = Ruined()) return Note(error);
  if (bytes == 0) return cudaSuccess;
  Device& d = device();
  if (stream == nullptr || !d.memory.IsDevice(memory, bytes)) return Note(cudaErrorInvalidValue);
  std::lock_guard lock(d.mutex);
  const Range written{memory, bytes};
  Queue(stream, {{}, {&written, 1}}, "a fill", [=] {
    if (value == 0) {
      device().memory.Zero(memory, bytes);
    } else {
      std::memset(memory, value, bytes);
    }
  });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  if (const cudaError_t error = Ruined()) return Note(error);
  if (flags != cudaStreamNonBlocking) return Note(cudaErrorInvalidValue);
  Device& d = device();
  std::lock_guard lock(d.mutex);
  auto* made = new CUstream_st;
  made->number = d.streams_made++;
  made->thread = std::thread(Serve, made);
  d.streams.push_back(made);
  *stream = made;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return Note(cudaErrorInvalidResourceHandle);
  WaitFor(stream);
  {
    std::lock_guard lock(device().mutex);
    std::erase(device().streams, stream);
  }
  {
    std::lock_guard lock(stream->mutex);
    stream->ends = true;
    stream->changed.notify_all();
  }
  stream->thread.join();
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr) return Note(cudaErrorInvalidResourceHandle);
  {
    std::lock_guard lock(device().mutex);
    if (const cudaError_t error = RefuseIfCapturing(stream)) return Note(error);
    ++device().counts.waits;
  }
  WaitFor(stream);
  return Note(Ruined());
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (const cudaError_t error = Ruined()) return Note(error);
  if (stream == nullptr || event == nullptr) return Note(cudaErrorInvalidResourceHandle);
  std::lock_guard lock(device().mutex);
  if (event->captured) {
    // Within one stream it is in order already; another would have to join the capture.
    if (stream->capture != nullptr) return cudaSuccess;
    return Note(RefuseIfCaptured(event));
  }
  const std::shared_ptr<Recording> recording = event->last;
  if (recording == nullptr) return cudaSuccess;
  if (stream->capture != nullptr) {
    stream->capture->valid = false;
    return Note(cudaErrorStreamCaptureIsolation);
  }
  {
    std::lock_guard stream_lock(stream->mutex);
    stream->clock.Merge(recording->clock);
  }
  Queue(stream, {}, "a wait", [recording] { recording->Wait(); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (flags != cudaEventDisableTiming) return Note(cudaErrorInvalidValue);
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const cudaError_t error = Ruined()) return Note(error);
  if (stream == nullptr || event == nullptr) return Note(cudaErrorInvalidResourceHandle);
  std::lock_guard lock(device().mutex);
  event->captured = stream->capture != nullptr;
  if (event->captured) return cudaSuccess;
  auto recording = std::make_shared<Recording>();
  Queue(stream, {}, "a record", [recording] { recording->Finish(); });
  {
    std::lock_guard stream_lock(stream->mutex);
    recording->clock = stream->clock;
  }
  event->last = std::move(recording);
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::shared_ptr<Recording> recording;
  {
    std::lock_guard lock(device().mutex);
    if (const cudaError_t error = RefuseIfCaptured(event)) return Note(error);
    ++device().counts.waits;
    recording = event->last;
  }
  if (recording != nullptr) {
    recording->Wait();
    std::lock_guard lock(device().mutex);
    device().host.Merge(recording->clock);
  }
  return Note(Ruined());
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  std::shared_ptr<Recording> recording;
  {
    std::lock_guard lock(device().mutex);
    if (const cudaError_t error = RefuseIfCaptured(event)) return Note(error);
    recording = event->last;
  }
  if (recording != nullptr) {
    {
      std::lock_guard lock(recording->mutex);
      if (!recording->done) return cudaErrorNotReady;
    }
    std::lock_guard lock(device().mutex);
    device().host.Merge(recording->clock);
  }
  return Note(Ruined());
}
