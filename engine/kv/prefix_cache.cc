#include "engine/kv/prefix_cache.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <utility>

namespace hostler {
namespace {

constexpr int64_t kDeepTokens = 32768;

}  // namespace

PrefixCache::PrefixCache(BlockPool pool, const Options& options)
    : options_(options),
      pool_(std::move(pool)),
      nodes_(pool_.most()),
      tokens_(
          std::make_unique_for_overwrite<int32_t[]>(size_t(pool_.most()) * options.block_tokens)),
      buckets_(std::bit_ceil(size_t(pool_.most()) + 1), kNone),
      hashed_(sizeof(Hash128) + options.block_tokens * sizeof(int32_t)) {
  leaves_.reserve(pool_.most());
}

std::optional<int32_t> PrefixCache::Allocate() {
  if (pool_.free() == 0 && !leaves_.empty()) {
    Drop(leaves_.front());
    ++evictions_;
  }
  return pool_.Allocate();
}

void PrefixCache::Release(std::span<const int32_t> blocks) {
  ++clock_;
  // From the last: leaves before what they stand on.
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    Node& node = nodes_[*block];
    pool_.Release(*block, node.uses > 0);
    if (node.uses == 0 || pool_.in_use(*block)) continue;
    if (!options_.keep || *block >= pool_.limit()) {
      Drop(*block);
      continue;
    }
    node.key = EvictionKey(node);
    if (node.first_child == kNone) AddLeaf(*block);
  }
}

// Time is counted in blocks that came in: a cache full of what was used once would
// let a block go `stay` after its last use. What was used again stays twice as
// long; and what lies deeper, whose attention costs more to compute again, up to
// half as long again. Weights found on two traces (docs/prefix-cache.md).
uint64_t PrefixCache::EvictionKey(const Node& node) const {
  const uint64_t stay = pool_.limit();
  const uint64_t depth = std::min(int64_t{node.depth} * options_.block_tokens, kDeepTokens);
  return clock_ + (node.uses > 1 ? stay : 0) + stay * depth / (2 * kDeepTokens);
}

std::optional<int32_t> PrefixCache::Take(const Content& content) {
  const int32_t block = Find(HashOf(content));
  if (block == kNone || !Holds(block, content)) return std::nullopt;
  Use(block);
  return block;
}

// One more sequence has it.
void PrefixCache::Use(int32_t block) {
  Node& node = nodes_[block];
  if (node.leaf_at != kNone) RemoveLeaf(block);
  pool_.AddRef(block);
  ++node.uses;
}

std::optional<int32_t> PrefixCache::Insert(const Content& content, int32_t block) {
  const Hash128 hash = HashOf(content);
  if (const int32_t other = Find(hash); other != kNone) {
    if (!Holds(other, content)) return std::nullopt;
    Use(other);
    pool_.Release(block);
    return other;
  }
  assert(pool_.in_use(block) && nodes_[block].uses == 0);
  ++clock_;
  Node& node = nodes_[block];
  node = {};
  node.hash = hash;
  node.parent = content.parent;
  node.uses = 1;
  if (content.parent != kNone) {
    Node& parent = nodes_[content.parent];
    node.depth = parent.depth + 1;
    node.next = parent.first_child;
    if (node.next != kNone) nodes_[node.next].previous = block;
    parent.first_child = block;
  } else if (!content.salt.empty()) {
    salts_.emplace(block, content.salt);
  }
  std::copy(content.tokens.begin(), content.tokens.end(),
            &tokens_[size_t(block) * options_.block_tokens]);
  int32_t& bucket = buckets_[hash.low & (buckets_.size() - 1)];
  node.next_in_bucket = std::exchange(bucket, block);
  return block;
}

void PrefixCache::set_limit(int limit) {
  for (int32_t block = std::max(limit, 0); block < pool_.limit(); ++block) {
    if (nodes_[block].uses > 0 && !pool_.in_use(block)) Drop(block);
  }
  pool_.set_limit(limit);
}

void PrefixCache::Drop(int32_t block) {
  // Nobody uses what stands on a block that nobody uses.
  for (int32_t leaf = block;;) {
    while (nodes_[leaf].first_child != kNone) leaf = nodes_[leaf].first_child;
    const int32_t parent = nodes_[leaf].parent;
    Unlink(leaf);
    pool_.Free(leaf);
    if (leaf == block) break;
    leaf = parent;
  }
}

void PrefixCache::Unlink(int32_t block) {
  Node& node = nodes_[block];
  if (node.leaf_at != kNone) RemoveLeaf(block);
  int32_t* link = &buckets_[node.hash.low & (buckets_.size() - 1)];
  while (*link != block) link = &nodes_[*link].next_in_bucket;
  *link = node.next_in_bucket;
  node.uses = 0;
  if (node.parent == kNone) {
    salts_.erase(block);
    return;
  }
  Node& parent = nodes_[node.parent];
  (node.previous != kNone ? nodes_[node.previous].next : parent.first_child) = node.next;
  if (node.next != kNone) nodes_[node.next].previous = node.previous;
  if (parent.first_child == kNone && !pool_.in_use(node.parent)) AddLeaf(node.parent);
}

Hash128 PrefixCache::HashOf(const Content& content) {
  const Hash128 before = content.parent != kNone
                             ? hash(content.parent)
                             : options_.hash(std::as_bytes(std::span(content.salt)));
  std::memcpy(hashed_.data(), &before, sizeof(before));
  std::memcpy(hashed_.data() + sizeof(before), content.tokens.data(), content.tokens.size_bytes());
  return options_.hash(hashed_);
}

int32_t PrefixCache::Find(const Hash128& hash) const {
  int32_t block = buckets_[hash.low & (buckets_.size() - 1)];
  while (block != kNone && nodes_[block].hash != hash) block = nodes_[block].next_in_bucket;
  return block;
}

bool PrefixCache::Holds(int32_t block, const Content& content) const {
  if (nodes_[block].parent != content.parent) return false;
  if (!std::ranges::equal(tokens(block), content.tokens)) return false;
  if (content.parent != kNone) return true;
  const auto salt = salts_.find(block);
  return content.salt == (salt == salts_.end() ? std::string_view() : salt->second);
}

bool PrefixCache::EarlierThan(int32_t a, int32_t b) const {
  return nodes_[a].key != nodes_[b].key ? nodes_[a].key < nodes_[b].key : a < b;
}

void PrefixCache::AddLeaf(int32_t block) {
  nodes_[block].leaf_at = static_cast<int32_t>(leaves_.size());
  leaves_.push_back(block);
  SiftUp(nodes_[block].leaf_at);
}

void PrefixCache::RemoveLeaf(int32_t block) {
  const int32_t at = std::exchange(nodes_[block].leaf_at, kNone);
  const int32_t last = leaves_.back();
  leaves_.pop_back();
  if (last == block) return;
  leaves_[at] = last;
  nodes_[last].leaf_at = at;
  SiftUp(at);
  SiftDown(nodes_[last].leaf_at);
}

void PrefixCache::SiftUp(int32_t at) {
  const int32_t block = leaves_[at];
  for (; at > 0; at = (at - 1) / 2) {
    const int32_t above = leaves_[(at - 1) / 2];
    if (!EarlierThan(block, above)) break;
    leaves_[at] = above;
    nodes_[above].leaf_at = at;
  }
  leaves_[at] = block;
  nodes_[block].leaf_at = at;
}

void PrefixCache::SiftDown(int32_t at) {
  const int32_t size = static_cast<int32_t>(leaves_.size());
  const int32_t block = leaves_[at];
  for (int32_t child; (child = 2 * at + 1) < size; at = child) {
    if (child + 1 < size && EarlierThan(leaves_[child + 1], leaves_[child])) ++child;
    if (!EarlierThan(leaves_[child], block)) break;
    leaves_[at] = leaves_[child];
    nodes_[leaves_[at]].leaf_at = at;
  }
  leaves_[at] = block;
  nodes_[block].leaf_at = at;
}

}  // namespace hostler
