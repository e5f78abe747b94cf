// Moves memory between KV blocks and expert slots while serving.
#pragma once

#include <cstdint>
#include <mutex>

#include "absl/status/statusor.h"
#include "cache/expert_cache.h"
#include "engine/compute/backend.h"
#include "engine/engine/scheduler.h"
#include "engine/engine/split_control.h"

namespace hostler {

class MemorySplit {
 public:
  struct Limits {
    uint64_t bytes = 0;  // KV and experts together
    uint64_t kv_block = 0;
    int least_kv_blocks = 0, most_kv_blocks = 0;
    int context_blocks = 0;  // of the longest sequence: what KV keeps if nobody asks for less
    uint64_t least_experts = 0, most_experts = 0;
  };
  struct Shares {
    int kv_blocks = 0;
    uint64_t experts = 0;  // bytes

    friend bool operator==(const Shares&, const Shares&) = default;
  };

  // Moves by itself too, with `automatic`. `kv` holds most_kv_blocks.
  MemorySplit(const Limits& limits, const Shares& start, bool automatic, Buffer* kv,
              ExpertCache* cache);

  // Any thread. From now on the experts may take `expert_bytes`, and KV what is
  // left; returns that. The loop gets there as sequences allow. Errors:
  // InvalidArgument naming the bounds.
  absl::StatusOr<Shares> Ask(uint64_t expert_bytes);
  // What was asked for last. Any thread.
  Shares asked() const;

  // Between steps, the engine loop's: moves what can be moved. Blocks that a
  // sequence is going to need are not taken; sequences in blocks that go are
  // computed again. What one side gets the other has given before.
  void Apply(Scheduler* scheduler);
  // After a step: whether the split should move by itself.
  void Observe(const Scheduler& scheduler, uint64_t expert_misses);

 private:
  Shares WithKvBlocks(int blocks) const;

  const Limits limits_;
  Buffer* const kv_;
  ExpertCache* const cache_;

  mutable std::mutex mutex_;  // guards asked_
  Shares asked_;

  // The loop's.
  Shares now_;
  const bool automatic_;
  SplitControl control_;
};

}  // namespace hostler
