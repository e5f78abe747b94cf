// A tier: memory that holds slots, each with room for one expert.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hostler {

// Slots of one size.
struct SlotClass {
  size_t bytes = 0;
  int count = 0;
};

// Slots are numbered from 0, those of a class one after another, and stay where
// they are. They take address space from the start and memory from their first
// use on. The tier moves no bytes on its own and keeps no record of what a slot
// holds: that is the ExpertCache's. Not thread-safe but for slot() and Fill(), of
// different slots at a time.
class Tier {
 public:
  virtual ~Tier() = default;
  // SlotStride() bytes. On the host: memory a reader may fill, 4 KiB-aligned, valid
  // until Discard(); empty when there is none to be had. Elsewhere: valid from Fill()
  // until Discard().
  virtual std::span<std::byte> slot(int index) = 0;
  // Whether slots are the host's memory. If not, Fill alone writes them.
  virtual bool on_host() const = 0;
  // Copies `bytes` to the slot's beginning, after all that was queued to compute with
  // what it held, and waits for it. While nobody waits for it, copies that are `demanded`
  // go first; that may become true meanwhile. Not on the host: `bytes` are in a tier that
  // its owner made for that. Errors: ResourceExhausted, Internal.
  virtual absl::Status Fill(int index, std::span<const std::byte> bytes,
                            const std::atomic<bool>& demanded) = 0;
  // Gives the slot's memory back until it is used again; what it held is lost.
  virtual void Discard(int index) = 0;
  // Slots will take so much together: taken at once where taking memory later would hold
  // up a step. Before any slot is used. Errors: ResourceExhausted.
  virtual absl::Status Reserve(uint64_t /*bytes*/) { return absl::OkStatus(); }
  // Whether memory in use is kept from being swapped out.
  virtual bool locked() const = 0;
};

// Slots in ordinary memory. Errors: ResourceExhausted when they do not fit the
// address space.
absl::StatusOr<std::unique_ptr<Tier>> NewDramTier(std::span<const SlotClass> classes);

using TierFactory =
    std::function<absl::StatusOr<std::unique_ptr<Tier>>(std::span<const SlotClass> classes)>;

// What slot memory is rounded up to.
size_t SlotStride(size_t slot_bytes);

}  // namespace hostler
