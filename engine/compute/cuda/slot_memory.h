// Memory of a tier's slots, of one kind: the device's, or pinned memory of the host.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/tier.h"

namespace hostler {

// What is reserved is one block, which serves slots of a single class in their order,
// the order in which a SlotTable takes them. Other slots have a block each from their
// first use until they are discarded. Of different slots: any thread at a time.
template <typename Pointer, absl::StatusOr<Pointer> (*allocate)(size_t)>
class SlotMemory {
 public:
  explicit SlotMemory(std::span<const SlotClass> classes) : classes_(classes.size()) {
    for (const SlotClass& slots : classes) {
      strides_.insert(strides_.end(), slots.count, SlotStride(slots.bytes));
    }
    own_.resize(strides_.size());
  }

  absl::Status Reserve(size_t bytes) {
    if (classes_ != 1) return absl::OkStatus();
    const size_t stride = strides_.front(), slots = std::min(bytes / stride, strides_.size());
    if (slots == 0) return absl::OkStatus();
    absl::StatusOr<Pointer> block = allocate(slots * stride);
    if (!block.ok()) return std::move(block).status();
    block_ = *std::move(block);
    reserved_ = slots;
    return absl::OkStatus();
  }

  // Empty: the slot has none.
  std::span<std::byte> Find(int index) const {
    const size_t stride = strides_[index];
    if (size_t(index) < reserved_) return {block_.get() + size_t(index) * stride, stride};
    return {own_[index].get(), own_[index] == nullptr ? 0 : stride};
  }
  // Errors: those of allocate().
  absl::StatusOr<std::span<std::byte>> Take(int index) {
    if (const std::span<std::byte> slot = Find(index); !slot.empty()) return slot;
    absl::StatusOr<Pointer> block = allocate(strides_[index]);
    if (!block.ok()) return std::move(block).status();
    own_[index] = *std::move(block);
    return Find(index);
  }
  void Discard(int index) { own_[index].reset(); }

 private:
  const size_t classes_;
  std::vector<size_t> strides_;  // [slots]
  std::vector<Pointer> own_;
  Pointer block_;
  size_t reserved_ = 0;  // slots in it, the first ones
};

}  // namespace hostler
