// Slots in a GPU's memory, and slots in pinned memory of the host from which they are
// filled. Slots of one size have their memory from the start; of several, each takes its
// own when it is first filled and gives it back when it is discarded. A fill waits for
// the kernels that use slots; resident experts are computed meanwhile.
//
// Copies that someone waits for and others go through a stream each. Streams' priorities
// do not order copies, so the others go in pieces, each when no copy waits that is
// demanded.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "cache/tier.h"
#include "engine/compute/cuda/slot_use.h"

namespace hostler {

// `use` is told of by the backend that computes with the slots, on `device`. Fill takes
// what lies in a tier of NewPinnedTier.
absl::StatusOr<std::unique_ptr<Tier>> NewHbmTier(std::span<const SlotClass> classes, int device,
                                                 std::shared_ptr<SlotUse> use);

std::unique_ptr<Tier> NewPinnedTier(std::span<const SlotClass> classes, int device);

}  // namespace hostler
