// PrefixCache: KV blocks that are found again by the tokens they hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/base/checksum.h"
#include "engine/kv/block_pool.h"

namespace hostler {

// The blocks of a pool, of which those that are full and computed form trees:
// under a block stand those that went on after its tokens. A block is found by a
// hash chain, H(hash of the block before, its tokens), as in vLLM; what a hash
// finds is compared: the tokens, the block before (itself compared the same way)
// and, of a first block, the salt. So equal hashes can never give wrong tokens, and
// different salts never share.
//
// Only full blocks are shared, and nobody writes to a full one: nothing needs to
// be copied on write.
//
// A block that no sequence uses stays, and is given up when a free one is wanted:
// a leaf before what it stands on, and among leaves the one with the least
// EvictionKey(). Cached blocks count as free.
//
// Allocates at the start only, but for salts. Not thread-safe (the engine loop's).
class PrefixCache {
 public:
  static constexpr int32_t kNone = -1;

  struct Options {
    int block_tokens = 16;
    // Whether a block outlives its last reference.
    bool keep = true;
    // Of the chain; tests put in a weak one.
    Hash128 (*hash)(std::span<const std::byte> bytes) = ContentHash;
  };

  // What a block holds.
  struct Content {
    int32_t parent = kNone;           // the cached block before it; kNone: it is the first
    std::string_view salt = {};       // of a first block: who may share it
    std::span<const int32_t> tokens;  // [block_tokens]
  };

  PrefixCache(BlockPool pool, const Options& options);

  // A block with one reference: a free one, else a cached one that is given up for
  // it. Nullopt when all are in use.
  std::optional<int32_t> Allocate();
  // A sequence's blocks, in their order: takes its reference from each.
  void Release(std::span<const int32_t> blocks);

  // The cached block with that content, with one more reference; nullopt when
  // there is none. REQUIRES: the parent is in use.
  std::optional<int32_t> Take(const Content& content);
  // `block`, in use, holds `content` in full and can be found from now on. Returns
  // the block to go on with: `block`, or another that held the same before, to
  // which the caller's reference has moved. Nullopt: not cached, because something
  // else has the same hash. REQUIRES: the parent is cached and in use.
  std::optional<int32_t> Insert(const Content& content, int32_t block);

  // From now on only blocks below `limit` are given out or kept. Blocks in use
  // stay valid.
  void set_limit(int limit);
  int limit() const { return pool_.limit(); }
  int free() const { return pool_.free() + pool_.kept(); }
  int used() const { return pool_.used(); }
  int cached() const { return pool_.kept(); }  // and not in use
  uint64_t evictions() const { return evictions_; }

  // A cached block's name among all blocks of this model and KV layout, and its
  // tokens: what another worker needs to know it by.
  const Hash128& hash(int32_t block) const { return nodes_[block].hash; }
  std::span<const int32_t> tokens(int32_t block) const {
    return {&tokens_[size_t(block) * options_.block_tokens], size_t(options_.block_tokens)};
  }

 private:
  struct Node {
    Hash128 hash;
    uint64_t key = 0;  // when it is evicted, among leaves
    int32_t parent = kNone;
    int32_t first_child = kNone;
    int32_t next = kNone, previous = kNone;  // the parent's other children
    int32_t next_in_bucket = kNone;
    int32_t leaf_at = kNone;  // where in leaves_; kNone: it is not there
    int32_t depth = 0;        // blocks before it
    uint32_t uses = 0;        // sequences that had it; 0: not cached
  };

  Hash128 HashOf(const Content& content);
  int32_t Find(const Hash128& hash) const;
  bool Holds(int32_t block, const Content& content) const;
  void Use(int32_t block);
  uint64_t EvictionKey(const Node& node) const;
  // Takes the block, which nobody uses, out of the trees, with all that stands on it.
  void Drop(int32_t block);
  void Unlink(int32_t block);

  // The heap of leaves that nobody uses.
  bool EarlierThan(int32_t a, int32_t b) const;
  void AddLeaf(int32_t block);
  void RemoveLeaf(int32_t block);
  void SiftUp(int32_t at);
  void SiftDown(int32_t at);

  const Options options_;
  BlockPool pool_;
  std::vector<Node> nodes_;            // by block
  std::unique_ptr<int32_t[]> tokens_;  // [block][block_tokens]
  std::vector<int32_t> buckets_;       // by hash: a block, or kNone
  std::vector<int32_t> leaves_;
  std::unordered_map<int32_t, std::string> salts_;  // of first blocks; those without are left out
  std::vector<std::byte> hashed_;                   // what is hashed just now
  uint64_t clock_ = 0;
  uint64_t evictions_ = 0;
};

}  // namespace hostler
