// The CUDA backend: operations queued on one stream of an NVIDIA GPU. Buffers are the
// device's, and taken whole at once. What operations are given on the host (indices,
// specs) may change as soon as they return. Its tier may be filled by other threads.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/compute/backend.h"

namespace hostler {

struct CudaOptions {
  // As NewCpuBackend's isa: "f32" keeps all inputs of products f32; with "" those of
  // quantised weights are integers (integers.h).
  std::string kernels = {};
  // So many threads compute the experts that are the host's share; 0: as many as there are
  // cores to use.
  int host_threads = 0;
  // Runs of kernels that come again are queued as graphs: what they compute is the same,
  // the host is done sooner.
  bool graphs = true;
};

// Errors: NotFound when there is no such device; InvalidArgument for other kernels;
// ResourceExhausted.
absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(int device = 0,
                                                        const CudaOptions& options = {});

}  // namespace hostler
