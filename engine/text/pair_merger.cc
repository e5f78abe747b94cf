#include "engine/text/pair_merger.h"

#include <utility>

#include "engine/text/merge_queue.h"

namespace hostler {
namespace {

uint64_t Key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

struct Link {
  int32_t id;  // -1: merged into the one before
  uint32_t previous;
  uint32_t next;
};

}  // namespace

PairMerger::PairMerger(size_t pairs) {
  size_t capacity = 16;
  while (capacity < 2 * pairs) capacity *= 2;
  slots_.resize(capacity);
}

size_t PairMerger::Locate(uint64_t key) const {
  const size_t mask = slots_.size() - 1;
  size_t i = (key * 0x9E3779B97F4A7C15u >> 20) & mask;
  while (slots_[i].key != key && slots_[i].key != ~uint64_t{0}) i = (i + 1) & mask;
  return i;
}

void PairMerger::Grow() {
  std::vector<Slot> old(slots_.size() * 2);
  std::swap(old, slots_);
  for (const Slot& slot : old) {
    if (slot.key != ~uint64_t{0}) slots_[Locate(slot.key)] = slot;
  }
}

void PairMerger::Set(int32_t left, int32_t right, uint32_t rank, int32_t whole) {
  if (2 * used_ >= slots_.size()) Grow();
  Slot& slot = slots_[Locate(Key(left, right))];
  if (slot.key == ~uint64_t{0}) ++used_;
  slot.key = Key(left, right);
  slot.pair = {rank, whole};
}

PairMerger::Pair PairMerger::Find(int32_t left, int32_t right) const {
  return slots_[Locate(Key(left, right))].pair;
}

void PairMerger::Merge(std::vector<int32_t>* ids, size_t first) const {
  if (ids->size() - first <= kShortWord) {
    MergeShort(ids, first);
  } else {
    MergeLong(ids, first);
  }
}

void PairMerger::MergeShort(std::vector<int32_t>* ids, size_t first) const {
  int32_t* word = ids->data() + first;
  size_t count = ids->size() - first;
  Pair pairs[kShortWord];
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = Find(word[i], word[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    word[best] = pairs[best].whole;
    for (size_t i = best + 1; i + 1 < count; ++i) {
      word[i] = word[i + 1];
      pairs[i] = pairs[i + 1];
    }
    --count;
    if (best > 0) pairs[best - 1] = Find(word[best - 1], word[best]);
    if (best + 1 < count) pairs[best] = Find(word[best], word[best + 1]);
  }
  ids->resize(first + count);
}

void PairMerger::MergeLong(std::vector<int32_t>* ids, size_t first) const {
  constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  const size_t count = ids->size() - first;
  std::vector<Link> links(count);
  for (size_t i = 0; i < count; ++i) {
    links[i] = {(*ids)[first + i], i == 0 ? kNone : static_cast<uint32_t>(i - 1),
                i + 1 == count ? kNone : static_cast<uint32_t>(i + 1)};
  }
  MergeQueue queue;
  const auto push = [&](uint32_t at) {
    const uint32_t next = links[at].next;
    if (next == kNone) return;
    const Pair pair = Find(links[at].id, links[next].id);
    if (pair.rank != kNoRank) queue.Push(pair.rank, at);
  };
  for (uint32_t i = 0; i < count; ++i) push(i);
  uint32_t rank = 0, at = 0;
  while (queue.Pop(&rank, &at)) {
    Link& left = links[at];
    if (left.id < 0 || left.next == kNone) continue;
    Link& right = links[left.next];
    const Pair pair = Find(left.id, right.id);
    if (pair.rank != rank) continue;  // the pair has changed since
    left.id = pair.whole;
    right.id = -1;
    left.next = right.next;
    if (left.next != kNone) links[left.next].previous = at;
    if (left.previous != kNone) push(left.previous);
    push(at);
  }
  ids->resize(first);
  for (uint32_t i = 0; i != kNone; i = links[i].next) ids->push_back(links[i].id);
}

}  // namespace hostler
