// Host memory for activations, KV and slots.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/compute/backend.h"

namespace hostler {

// Zeroed and 64-byte aligned; large buffers ask for huge pages. Errors:
// ResourceExhausted.
absl::StatusOr<std::unique_ptr<Buffer>> AllocateHostMemory(size_t bytes);

}  // namespace hostler
