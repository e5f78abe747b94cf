// ByteTrie: tokens by their bytes, to find all that begin at one place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace hostler {

// Immutable once filled; then any thread. (node, byte) → node in open
// addressing.
class ByteTrie {
 public:
  ByteTrie() : slots_(1024) {}

  void Add(std::string_view text, int32_t id) {
    uint32_t node = 0;
    for (unsigned char byte : text) {
      if (2 * ids_.size() >= slots_.size()) Grow();
      Slot& slot = slots_[Locate(uint64_t{node} << 8 | byte)];
      if (slot.next == 0) {
        slot = {uint64_t{node} << 8 | byte, static_cast<uint32_t>(ids_.size())};
        ids_.push_back(-1);
      }
      node = slot.next;
    }
    ids_[node] = id;
  }

  // The child of `node`, 0 when there is none. 0 is the root.
  uint32_t Next(uint32_t node, unsigned char byte) const {
    return slots_[Locate(uint64_t{node} << 8 | byte)].next;
  }
  int32_t Id(uint32_t node) const { return ids_[node]; }  // -1: none

 private:
  struct Slot {
    uint64_t key = 0;
    uint32_t next = 0;  // 0: the slot is free
  };

  size_t Locate(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t i = (key * 0x9E3779B97F4A7C15u >> 20) & mask;
    while (slots_[i].next != 0 && slots_[i].key != key) i = (i + 1) & mask;
    return i;
  }

  void Grow() {
    std::vector<Slot> old(slots_.size() * 2);
    std::swap(old, slots_);
    for (const Slot& slot : old) {
      if (slot.next != 0) slots_[Locate(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  std::vector<int32_t> ids_{-1};  // by node
};

}  // namespace hostler
