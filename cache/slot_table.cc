#include "cache/slot_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace hostler {

namespace {

// What may be lost to slots that are larger than their experts.
constexpr double kMostLost = 1.0 / 8;

// The largest expert, if slots of that size lose little and memory is short; else 0.
size_t OneSize(const ExpertStore& store, uint64_t budget_bytes) {
  size_t largest = 0;
  uint64_t all = 0, experts = 0;
  for (int layer = 0; layer < store.num_layers(); ++layer) {
    largest = std::max(largest, store.slot_bytes(layer));
    all += SlotStride(store.slot_bytes(layer)) * store.num_experts(layer);
    experts += store.num_experts(layer);
  }
  const double taken = static_cast<double>(SlotStride(largest)) * static_cast<double>(experts);
  return budget_bytes < all && static_cast<double>(all) >= taken * (1 - kMostLost) ? largest : 0;
}

}  // namespace

absl::StatusOr<SlotTable> SlotTable::Create(const ExpertStore& store, uint64_t budget_bytes,
                                            const TierFactory& new_tier, bool one_size) {
  SlotTable table;
  std::vector<SlotClass> sizes;
  const size_t largest = one_size ? OneSize(store, budget_bytes) : 0;
  for (int layer = 0; layer < store.num_layers(); ++layer) {
    const size_t bytes = largest > 0 ? largest : store.slot_bytes(layer);
    auto found = std::find_if(sizes.begin(), sizes.end(),
                              [bytes](const SlotClass& size) { return size.bytes == bytes; });
    if (found == sizes.end()) found = sizes.insert(sizes.end(), {bytes, 0});
    found->count += store.num_experts(layer);
    table.class_of_layer_.push_back(static_cast<uint8_t>(found - sizes.begin()));
    table.slot_of_.emplace_back(store.num_experts(layer), kNone);
    if (sizes.size() > 255) {
      return absl::UnimplementedError("experts of more than 255 different sizes");
    }
  }
  auto tier = new_tier(sizes);
  if (!tier.ok()) return std::move(tier).status();
  table.tier_ = *std::move(tier);
  int slot = 0;
  for (const SlotClass& size : sizes) {
    Class& slots = table.classes_.emplace_back();
    slots.stride = SlotStride(size.bytes);
    slots.free.reserve(size.count);
    // Popped in ascending order.
    for (int i = size.count; i-- > 0;) slots.unused.push_back(slot + i);
    table.class_of_slot_.insert(table.class_of_slot_.end(), size.count,
                                static_cast<uint8_t>(table.classes_.size() - 1));
    slot += size.count;
  }
  for (int layer = 0; layer < store.num_layers(); ++layer) {
    table.all_bytes_ += table.Stride(layer) * store.num_experts(layer);
  }
  table.keys_.resize(slot);
  table.set_budget(budget_bytes);
  if (absl::Status status = table.tier_->Reserve(table.budget_); !status.ok()) return status;
  return table;
}

std::optional<int> SlotTable::Take(ExpertKey key) {
  Class& slots = classes_[class_of_layer_[key.layer]];
  int slot = kNone;
  if (!slots.free.empty()) {
    slot = slots.free.back();
    slots.free.pop_back();
  } else if (Shrink(slots.stride)) {
    slot = slots.unused.back();
    slots.unused.pop_back();
    used_ += slots.stride;
  } else {
    return std::nullopt;
  }
  keys_[slot] = key;
  slot_of_[key.layer][key.expert] = slot;
  return slot;
}

bool SlotTable::Shrink(uint64_t bytes) {
  for (Class& slots : classes_) {
    while (used_ + bytes > budget_ && !slots.free.empty()) {
      const int slot = slots.free.back();
      slots.free.pop_back();
      tier_->Discard(slot);
      slots.unused.push_back(slot);
      used_ -= slots.stride;
    }
  }
  return used_ + bytes <= budget_;
}

void SlotTable::Free(int slot) {
  const ExpertKey key = keys_[slot];
  slot_of_[key.layer][key.expert] = kNone;
  Class& slots = classes_[ClassOf(slot)];
  slots.free.push_back(slot);
  if (over_budget()) Shrink(0);
}

void SlotTable::set_budget(uint64_t bytes) {
  budget_ = std::min(bytes, all_bytes_);
  Shrink(0);
}

uint64_t SlotTable::largest_slot() const {
  uint64_t largest = 0;
  for (const Class& slots : classes_) largest = std::max(largest, slots.stride);
  return largest;
}

}  // namespace hostler
