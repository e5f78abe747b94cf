// A tier: memory that holds slots, each with room for one expert.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "absl/status/statusor.h"

namespace hostler {

// Slots are numbered from 0; their memory is allocated once, at construction,
// and stays where it is. The tier moves no bytes on its own and keeps no
// record of what a slot holds: that is the ExpertCache's.
class Tier {
 public:
  virtual ~Tier() = default;
  virtual int num_slots() const = 0;
  virtual size_t slot_bytes() const = 0;
  // Memory a reader may fill, 4 KiB-aligned. Valid as long as the tier.
  virtual std::span<std::byte> slot(int index) = 0;
};

// Slots in ordinary memory. Errors: ResourceExhausted when it cannot be had.
absl::StatusOr<std::unique_ptr<Tier>> NewDramTier(int num_slots, size_t slot_bytes);

}  // namespace hostler
