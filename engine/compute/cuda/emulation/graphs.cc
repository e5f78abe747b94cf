// Capturing what is queued on a stream, and queueing it again.
#include <algorithm>
#include <thread>

#include "engine/compute/cuda/emulation/device.h"

namespace hostler::cuda_emulation {

cudaError_t RefuseWhileCapturing() {
  for (CUstream_st* stream : device().streams) {
    Capture* capture = stream->capture.get();
    if (capture == nullptr || capture->mode == cudaStreamCaptureModeRelaxed) continue;
    const bool everyones = capture->mode == cudaStreamCaptureModeGlobal;
    if (!everyones && capture->thread != std::this_thread::get_id()) continue;
    capture->valid = false;
    return cudaErrorStreamCaptureUnsupported;
  }
  return cudaSuccess;
}

cudaError_t RefuseIfCapturing(CUstream_st* stream) {
  if (stream->capture == nullptr) return cudaSuccess;
  stream->capture->valid = false;
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t RefuseIfCaptured(const CUevent_st* event) {
  return event->captured ? cudaErrorCapturedEvent : cudaSuccess;
}

cudaError_t LaunchGraph(cudaGraphExec_t graph, cudaStream_t stream,
                        std::span<const NodeUses> uses) {
  if (const cudaError_t error = Ruined()) return Note(error);
  if (graph == nullptr || stream == nullptr) return Note(cudaErrorInvalidResourceHandle);
  if (!uses.empty() && uses.size() != graph->nodes.size()) return Note(cudaErrorInvalidValue);
  Device& d = device();
  std::lock_guard lock(d.mutex);
  // As a child of what is captured it is not in use.
  if (const cudaError_t error = RefuseIfCapturing(stream)) return Note(error);
  if (Fails(d.faults.launch)) return Note(cudaErrorLaunchOutOfResources);
  ++d.counts.graph_launches;
  for (size_t i = 0; i < graph->nodes.size(); ++i) {
    const GraphNode& node = graph->nodes[i];
    Used used = {node.reads, node.writes};
    if (!uses.empty()) used = {uses[i].reads, uses[i].writes};
    Queue(stream, used, node.what, node.operation);
  }
  return cudaSuccess;
}

}  // namespace hostler::cuda_emulation

using namespace hostler::cuda_emulation;  // the definitions below are the header's

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (const cudaError_t error = Ruined()) return Note(error);
  if (stream == nullptr) return Note(cudaErrorInvalidResourceHandle);
  std::lock_guard lock(device().mutex);
  if (stream->capture != nullptr) return Note(cudaErrorIllegalState);
  stream->capture = std::make_unique<Capture>(Capture{mode, std::this_thread::get_id()});
  ++device().counts.captures;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (stream == nullptr) return Note(cudaErrorInvalidResourceHandle);
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (stream->capture == nullptr) return Note(cudaErrorIllegalState);
  const bool own = stream->capture->thread == std::this_thread::get_id();
  if (!own && stream->capture->mode != cudaStreamCaptureModeRelaxed) {
    return Note(cudaErrorStreamCaptureWrongThread);
  }
  const std::unique_ptr<Capture> capture = std::move(stream->capture);
  if (Fails(d.faults.capture)) capture->valid = false;
  if (!capture->valid) return Note(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st{std::move(capture->nodes)};
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags) {
  if (const cudaError_t error = Ruined()) return Note(error);
  if (graph == nullptr || flags != 0) return Note(cudaErrorInvalidValue);
  *executable = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return LaunchGraph(executable, stream, {});
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
