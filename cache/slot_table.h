// Which expert is in which slot of a tier, and how much memory that takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/expert_store.h"
#include "cache/tier.h"

namespace hostler {

// Slots come in classes, one for each size an expert has. A slot is unused
// (takes no memory), free (keeps its memory for the next expert) or taken.
// Experts of any class may take the memory of another: the budget counts bytes.
// Not thread-safe: the ExpertCache's, under its lock. Allocates only in
// Create().
class SlotTable {
 public:
  static constexpr int kNone = -1;

  // Slots for all experts of `store`, of which `budget_bytes` may be in use. `one_size`:
  // for a tier that reserves its memory, where not all experts fit and little is lost,
  // every slot has room for the largest. Errors: ResourceExhausted.
  static absl::StatusOr<SlotTable> Create(const ExpertStore& store, uint64_t budget_bytes,
                                          const TierFactory& new_tier, bool one_size = false);

  // Where `key` is, kNone if it is nowhere.
  int Find(ExpertKey key) const { return slot_of_[key.layer][key.expert]; }
  ExpertKey key(int slot) const { return keys_[slot]; }
  // SlotStride() bytes.
  std::span<std::byte> memory(int slot) const { return tier_->slot(slot); }
  Tier& tier() const { return *tier_; }

  // A slot for `key` within the budget; nullopt when an expert has to leave
  // first.
  std::optional<int> Take(ExpertKey key);
  // `slot`'s expert leaves. Memory beyond the budget goes back to the system.
  void Free(int slot);

  // More than all experts take is not needed, nor counted.
  void set_budget(uint64_t bytes);
  uint64_t budget() const { return budget_; }
  uint64_t used_bytes() const { return used_; }  // of taken and free slots
  bool over_budget() const { return used_ > budget_; }
  bool holds_all() const { return budget_ == all_bytes_; }

  int num_slots() const { return static_cast<int>(keys_.size()); }
  uint64_t Stride(int layer) const { return classes_[class_of_layer_[layer]].stride; }
  uint64_t largest_slot() const;                     // bytes
  uint64_t all_bytes() const { return all_bytes_; }  // that all experts would take
  bool locked() const { return tier_->locked(); }

 private:
  struct Class {
    uint64_t stride = 0;
    std::vector<int> unused, free;  // stacks
  };

  SlotTable() = default;
  int ClassOf(int slot) const { return class_of_slot_[slot]; }
  // Gives free slots' memory back until `bytes` more fit; false if they do not.
  bool Shrink(uint64_t bytes);

  std::unique_ptr<Tier> tier_;
  uint64_t budget_ = 0, used_ = 0, all_bytes_ = 0;
  std::vector<Class> classes_;
  std::vector<uint8_t> class_of_layer_, class_of_slot_;
  std::vector<ExpertKey> keys_;            // [slots]
  std::vector<std::vector<int>> slot_of_;  // [layer][expert]
};

}  // namespace hostler
