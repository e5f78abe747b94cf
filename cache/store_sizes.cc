#include "cache/store_sizes.h"

#include <fmt/format.h>

#include <algorithm>

#include "cache/tier.h"

namespace hostler {

absl::StatusOr<StoreSizes> MeasureStore(const ExpertStore& store) {
  StoreSizes sizes;
  for (int layer = 0; layer < store.num_layers(); ++layer) {
    const size_t slot_bytes = store.slot_bytes(layer);
    const int num_experts = store.num_experts(layer);
    sizes.max_experts_per_layer = std::max(sizes.max_experts_per_layer, num_experts);
    sizes.slot_bytes = std::max(sizes.slot_bytes, slot_bytes);
    sizes.experts += num_experts;
    sizes.all_slots_bytes += SlotStride(slot_bytes) * num_experts;
    for (int expert = 0; expert < num_experts; ++expert) {
      const uint64_t stored_bytes = StoredBytes(store, {layer, expert});
      if (store.needs_decode(layer)) {
        sizes.stored_bytes = std::max<size_t>(sizes.stored_bytes, stored_bytes);
      } else if (stored_bytes != slot_bytes) {
        return absl::InvalidArgumentError(
            fmt::format("layer {} expert {}: {} bytes are stored, but its slot takes {}", layer,
                        expert, stored_bytes, slot_bytes));
      }
    }
  }
  if (sizes.max_experts_per_layer == 0 || sizes.slot_bytes == 0) {
    return absl::InvalidArgumentError("the model has no experts");
  }
  return sizes;
}

}  // namespace hostler
