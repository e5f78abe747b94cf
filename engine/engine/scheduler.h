// Scheduler: decides what each step computes.
//
// A step has a budget of rows. Sequences that generate come first, one row
// each, in turns where not all may; prompts fill the rest in chunks, oldest
// first; then waiting sequences are admitted, in their order. When KV blocks run
// out, a younger sequence (or one whose client reads slowly) gives up its blocks
// and is computed again later. The oldest sequence can always go on, so the whole
// never stands still.
//
// What a prompt has in common with what was computed before is taken from the
// prefix cache, a chunk at a time, as late as the chunk is chosen.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "engine/compute/step_batch.h"
#include "engine/engine/sequence.h"
#include "engine/kv/prefix_cache.h"

namespace hostler {

// A sequence's part of the step.
struct ScheduledSequence {
  Sequence* sequence = nullptr;
  int first_row = 0;
  int rows = 0;
  int first_logit = 0;  // into StepBatch::logit_rows
  int logits = 0;       // the last `logits` of its rows
};

// Not thread-safe: the engine loop's.
class Scheduler {
  using List = std::vector<std::unique_ptr<Sequence>>;

 public:
  struct Limits {
    int step_rows = 512;
    int logit_rows = 64;     // of a step
    int max_sequences = 64;  // in the batch
    int block_tokens = 16;
    // Every running sequence has a slot of recurrent state, and so cannot
    // begin with another's blocks.
    bool recurrent = false;
    // Whether requests find what others have computed. Without, only the
    // sequences of one request share.
    bool prefix_cache = true;
  };

  // Of prompts, in tokens. Sequences after a request's first one and what is
  // computed again after a preemption are not counted.
  struct PrefixStats {
    uint64_t queried = 0;
    uint64_t found = 0;
  };

  static constexpr int kAll = std::numeric_limits<int>::max();

  // `blocks` may be given out; all of its numbers have memory.
  Scheduler(const Limits& limits, BlockPool blocks);

  // Queues the n sequences of one request; those after the first wait until its
  // prompt is computed, whose full blocks they find then.
  void Add(std::vector<std::unique_ptr<Sequence>> sequences);

  // Chooses the next step, in which at most `width` sequences generate, beside at
  // most `prompt_rows` rows of prompts. False: nothing can be computed now. `batch`
  // refers to the sequences' block tables until the next call or removal.
  bool BuildStep(StepBatch* batch, int width = kAll, int prompt_rows = kAll);
  std::span<const ScheduledSequence> scheduled() const { return scheduled_; }

  // `rows` more tokens of `sequence` are computed. Its blocks can be found as soon
  // as they are full.
  void Computed(Sequence& sequence, int rows);

  // Sequences that could generate in the next step.
  int decodable();
  // The same; valid until one is removed.
  std::span<Sequence* const> decoding() const { return decoding_; }

  // The sequences that generated in this step go behind the others that could.
  void EndSlice();

  // Frees its blocks and destroys it.
  void Remove(Sequence* sequence);

  // Most blocks that any one sequence here may come to need.
  int BlocksToCome() const;
  // Between steps: only blocks below `limit` are used from now on; sequences in
  // others are computed again. REQUIRES: limit >= BlocksToCome()
  void SetBlockLimit(int limit);
  // Whether the last step left a sequence out, or preempted one, for blocks.
  bool short_of_blocks() const { return short_of_blocks_; }

  // Every sequence there is, running ones first.
  std::vector<Sequence*> all() const;
  // The first of them of which `matches` is true; null: none.
  template <typename Predicate>
  Sequence* Find(const Predicate& matches) const {
    for (const List* list : {&running_, &waiting_}) {
      for (const auto& sequence : *list) {
        if (matches(*sequence)) return sequence.get();
      }
    }
    return nullptr;
  }

  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  int paused() const;
  uint64_t preemptions() const { return preemptions_; }
  const PrefixCache& blocks() const { return blocks_; }
  const PrefixStats& prefix_stats() const { return prefix_stats_; }

 private:
  bool InStep(const Sequence& sequence) const;
  int BlocksFor(int tokens) const {
    return (tokens + limits_.block_tokens - 1) / limits_.block_tokens;
  }
  // Makes room for `tokens` tokens of `sequence`, as far as it can be had;
  // returns how many there is room for.
  int EnsureRoom(Sequence& sequence, int tokens);
  bool Reclaim(const Sequence& for_sequence);
  void FreeBlocks(Sequence& sequence);
  // What block `index` of the sequence holds, or will.
  PrefixCache::Content ContentOf(const Sequence& sequence, int index) const;
  // Goes on with the blocks that others have computed already.
  void TakeCached(Sequence& sequence);
  // Its full blocks can be found from now on.
  void CacheBlocks(Sequence& sequence);
  // For the usage and the stats: what was taken is used now.
  void CountFound(Sequence& sequence);
  // Whether this step computes for another sequence at least half of what this
  // one has to compute.
  bool IsBeingComputed(const Sequence& sequence) const;
  void Preempt(Sequence& sequence);
  void Schedule(Sequence& sequence, StepBatch* batch);
  void ScheduleDecodes(int width, StepBatch* batch);
  void SchedulePrompts(StepBatch* batch);
  void ReserveAll(Sequence& sequence);
  void Admit(StepBatch* batch);
  // A running sequence's slot of recurrent state.
  void TakeState(Sequence& sequence);

  const Limits limits_;
  PrefixCache blocks_;
  PrefixStats prefix_stats_;
  std::vector<int32_t> free_states_;
  List running_;  // by order
  List waiting_;  // by order
  std::vector<ScheduledSequence> scheduled_;
  std::vector<Sequence*> decoding_;  // could generate, by order
  std::vector<Sequence*> turn_;      // the same, whose turn it is first
  uint64_t turns_ = 0;
  uint64_t next_order_ = 0;
  uint64_t preemptions_ = 0;
  int step_rows_ = 0;  // the step may have now
  bool short_of_blocks_ = false;
};

}  // namespace hostler
