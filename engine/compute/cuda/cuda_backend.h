// The CUDA backend: operations queued on one stream of an NVIDIA GPU. Buffers are the
// device's, and taken whole at once. What operations are given on the host (indices,
// specs) may change as soon as they return. Its tier may be filled by other threads.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/compute/backend.h"

namespace hostler {

// Products with quantised weights are in integers (integers.h); with `kernels` "f32", as
// NewCpuBackend has it, all are f32. Errors: NotFound when there is no such device;
// InvalidArgument for other kernels; ResourceExhausted.
absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(int device = 0,
                                                        std::string_view kernels = "");

}  // namespace hostler
