#include "engine/engine/memory_split.h"

#include <algorithm>

#include "engine/base/bytes.h"
#include "fmt/format.h"

namespace hostler {

MemorySplit::MemorySplit(const Limits& limits, const Shares& start, bool automatic, Buffer* kv,
                         ExpertCache* cache)
    : limits_(limits),
      kv_(kv),
      cache_(cache),
      asked_(start),
      now_(start),
      automatic_(automatic),
      control_(limits.context_blocks, limits.most_kv_blocks) {}

MemorySplit::Shares MemorySplit::WithKvBlocks(int blocks) const {
  return {blocks, std::min(limits_.most_experts, limits_.bytes - blocks * limits_.kv_block)};
}

absl::StatusOr<MemorySplit::Shares> MemorySplit::Ask(uint64_t expert_bytes) {
  const uint64_t most =
      std::min(limits_.most_experts, limits_.bytes - limits_.least_kv_blocks * limits_.kv_block);
  if (expert_bytes < limits_.least_experts || expert_bytes > most) {
    return absl::InvalidArgumentError(
        fmt::format("{} for experts: must be between {} and {}", FormatBytes(expert_bytes),
                    FormatBytes(limits_.least_experts), FormatBytes(most)));
  }
  const uint64_t blocks = (limits_.bytes - expert_bytes) / limits_.kv_block;
  const Shares shares{static_cast<int>(std::min<uint64_t>(blocks, limits_.most_kv_blocks)),
                      expert_bytes};
  std::lock_guard lock(mutex_);
  asked_ = shares;
  return shares;
}

MemorySplit::Shares MemorySplit::asked() const {
  std::lock_guard lock(mutex_);
  return asked_;
}

void MemorySplit::Apply(Scheduler* scheduler) {
  Shares next = asked();
  if (const int needed = scheduler->BlocksToCome(); needed > next.kv_blocks) {
    const uint64_t asked = next.experts;
    next = WithKvBlocks(std::min(needed, limits_.most_kv_blocks));
    next.experts = std::min(next.experts, asked);
  }
  if (next == now_) return;
  if (next.experts < now_.experts) cache_->SetCapacity(next.experts);
  scheduler->SetBlockLimit(next.kv_blocks);
  if (next.kv_blocks < now_.kv_blocks) {
    kv_->Discard(next.kv_blocks * limits_.kv_block, kv_->bytes());
  }
  if (next.experts > now_.experts) cache_->SetCapacity(next.experts);
  now_ = next;
}

void MemorySplit::Observe(const Scheduler& scheduler, uint64_t expert_misses) {
  if (!automatic_) return;
  const std::optional<int> blocks = control_.OnStep({.limit = now_.kv_blocks,
                                                     .used = scheduler.blocks().used(),
                                                     .short_of_blocks = scheduler.short_of_blocks(),
                                                     .missing_experts = expert_misses > 0});
  if (!blocks.has_value()) return;
  const Shares shares = WithKvBlocks(*blocks);
  if (shares.experts < limits_.least_experts) return;
  std::lock_guard lock(mutex_);
  asked_ = shares;
}

}  // namespace hostler
