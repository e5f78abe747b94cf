// How large the experts of a store are.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "cache/expert_store.h"

namespace hostler {

struct StoreSizes {
  size_t slot_bytes = 0;    // the largest layer's expert
  size_t stored_bytes = 0;  // the largest expert that needs decoding, else 0
  int max_experts_per_layer = 0;
  int64_t experts = 0;
  uint64_t all_slots_bytes = 0;  // that slots for all experts take, as SlotStride() rounds them
};

// What must be read for `key`.
inline uint64_t StoredBytes(const ExpertStore& store, ExpertKey key) {
  return TotalBytes(store.extents(key));
}

// Errors: InvalidArgument for a store without experts, and for experts that do
// not fill their slots though they need no decoding.
absl::StatusOr<StoreSizes> MeasureStore(const ExpertStore& store);

}  // namespace hostler
