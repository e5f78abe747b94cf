// Divides the memory budget over weights, work space, KV and experts.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/compute/backend.h"
#include "engine/engine/engine.h"

namespace hostler {

// What the model needs, bytes.
struct MemoryNeeds {
  uint64_t weights = 0;
  uint64_t work_space = 0;
  uint64_t kv_block = 0;
  int block_tokens = 0;
  uint64_t slot = 0;         // one expert; 0 for a dense model
  uint64_t pinned = 0;       // slots of experts that never leave
  uint64_t all_experts = 0;  // slots for all
  int layer_experts = 0;     // most experts that a step may ask of one layer
  // On the host beside a device of its own memory; part of work_space without one.
  uint64_t host_work_space = 0;
};

struct DividedMemory {
  MemoryPlan plan;
  int kv_blocks = 0;
  int least_kv_blocks = 0;     // less would be too little to serve with
  uint64_t least_experts = 0;  // likewise, bytes: pinned ones and a slot more
  int max_context = 0;         // the model's or the one asked for, or what KV holds
};

// A fixed rule, in this order: weights and work space; what the options fix;
// then all experts if at most three quarters of the rest is enough, else KV for
// every sequence up to a quarter of the rest and the experts with what remains.
// KV must hold one sequence of the context asked for (or of
// min(context, 2048) tokens), experts the pinned ones and a slot.
// With the memory of a device all of that is divided there, within
// device_memory_bytes, and memory_bytes bounds what lies on the host. Errors:
// ResourceExhausted with the numbers, and which of the two is too small.
absl::StatusOr<DividedMemory> DivideMemory(const MemoryNeeds& needs, const EngineOptions& options,
                                           int model_context,
                                           const std::optional<DeviceMemory>& device);

}  // namespace hostler
