// Slots in a GPU's memory. Each takes its memory when it is first filled and gives it
// back when it is discarded; a slot that passes from expert to expert keeps it. What
// fills a slot goes through pinned memory and a stream of its own, which waits for the
// kernels that use slots; resident experts are computed meanwhile.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "cache/tier.h"
#include "engine/compute/cuda/slot_use.h"

namespace hostler {

// `use` is told of by the backend that computes with the slots, on `device`.
absl::StatusOr<std::unique_ptr<Tier>> NewHbmTier(std::span<const SlotClass> classes, int device,
                                                 std::shared_ptr<SlotUse> use);

}  // namespace hostler
