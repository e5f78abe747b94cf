#include "engine/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "fmt/format.h"

namespace hostler {
namespace {

// A client that does not read: nothing more is computed for it meanwhile.
bool Paused(const Sequence& sequence) { return sequence.request->stream->full(); }

}  // namespace

Scheduler::Scheduler(const Limits& limits, BlockPool blocks)
    : limits_(limits),
      blocks_(std::move(blocks),
              {.block_tokens = limits.block_tokens, .keep = limits.prefix_cache}) {
  if (!limits.recurrent) return;
  for (int32_t slot = limits.max_sequences - 1; slot >= 0; --slot) free_states_.push_back(slot);
}

void Scheduler::Add(std::vector<std::unique_ptr<Sequence>> sequences) {
  for (auto& sequence : sequences) {
    sequence->order = next_order_++;
    sequence->waits_for_leader = sequence->index > 0;
    if (sequence->index == 0 && !limits_.prefix_cache) {
      sequence->request->request.cache_salt = fmt::format("request {}", sequence->order);
    } else if (sequence->index == 0 && !limits_.recurrent) {
      prefix_stats_.queried += sequence->request->prompt.size();
    }
    waiting_.push_back(std::move(sequence));
  }
}

int Scheduler::paused() const {
  return static_cast<int>(
      std::count_if(running_.begin(), running_.end(), [](const auto& s) { return Paused(*s); }));
}

std::vector<Sequence*> Scheduler::all() const {
  std::vector<Sequence*> out;
  for (const List* list : {&running_, &waiting_}) {
    for (const auto& sequence : *list) out.push_back(sequence.get());
  }
  return out;
}

bool Scheduler::InStep(const Sequence& sequence) const {
  return std::any_of(scheduled_.begin(), scheduled_.end(),
                     [&](const ScheduledSequence& s) { return s.sequence == &sequence; });
}

void Scheduler::FreeBlocks(Sequence& sequence) {
  blocks_.Release(sequence.blocks);
  sequence.blocks.clear();
  sequence.computed = sequence.cached_blocks = sequence.found = 0;
  if (sequence.state >= 0) free_states_.push_back(std::exchange(sequence.state, -1));
}

void Scheduler::TakeState(Sequence& sequence) {
  if (!limits_.recurrent || sequence.state >= 0) return;
  sequence.state = free_states_.back();  // as many as may run at a time
  free_states_.pop_back();
}

void Scheduler::Preempt(Sequence& sequence) {
  FreeBlocks(sequence);
  const auto found = std::find_if(running_.begin(), running_.end(),
                                  [&](const auto& s) { return s.get() == &sequence; });
  if (found == running_.end()) return;  // it waits, and only gave back shared blocks
  ++preemptions_;
  ++sequence.request->timings.preemptions;
  std::unique_ptr<Sequence> moved = std::move(*found);
  running_.erase(found);
  const auto place = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const auto& s) { return s->order > sequence.order; });
  waiting_.insert(place, std::move(moved));
}

// Takes the blocks of one sequence: a paused one if there is, else the
// youngest, never one older than `for_sequence` or in the step being built.
bool Scheduler::Reclaim(const Sequence& for_sequence) {
  Sequence* victim = nullptr;
  bool victim_paused = false;
  for (Sequence* candidate : all()) {
    if (candidate == &for_sequence || candidate->blocks.empty() || InStep(*candidate)) continue;
    const bool paused = Paused(*candidate);
    if (!paused && candidate->order < for_sequence.order) continue;
    const bool better = victim == nullptr || (paused && !victim_paused) ||
                        (paused == victim_paused && candidate->order > victim->order);
    if (better) {
      victim = candidate;
      victim_paused = paused;
    }
  }
  if (victim == nullptr) return false;
  Preempt(*victim);
  return true;
}

int Scheduler::EnsureRoom(Sequence& sequence, int tokens) {
  const int wanted = BlocksFor(tokens);
  while (static_cast<int>(sequence.blocks.size()) < wanted) {
    if (const std::optional<int32_t> block = blocks_.Allocate()) {
      sequence.blocks.push_back(*block);
    } else {
      short_of_blocks_ = true;
      if (!Reclaim(sequence)) break;
    }
  }
  return std::min<int>(tokens, static_cast<int>(sequence.blocks.size()) * limits_.block_tokens);
}

// Adds as many of the sequence's pending rows as the step's limits and the KV
// blocks allow.
void Scheduler::Schedule(Sequence& sequence, StepBatch* batch) {
  const int first = sequence.computed;
  const int logits_left = limits_.logit_rows - static_cast<int>(batch->logit_rows.size());
  const int rows_before_logits = std::max(0, sequence.logits_from() - first);
  int rows =
      std::min({sequence.pending(), step_rows_ - batch->rows(), rows_before_logits + logits_left});
  if (rows <= 0) return;
  rows = EnsureRoom(sequence, first + rows) - first;
  if (rows <= 0) return;
  CountFound(sequence);

  ScheduledSequence part;
  part.sequence = &sequence;
  part.first_row = batch->rows();
  part.rows = rows;
  part.first_logit = static_cast<int>(batch->logit_rows.size());
  part.logits = std::max(0, rows - rows_before_logits);
  for (int i = 0; i < rows; ++i) {
    if (i >= rows - part.logits) batch->logit_rows.push_back(batch->rows());
    batch->tokens.push_back(sequence.tokens[first + i]);
    batch->positions.push_back(first + i);
  }
  TakeState(sequence);
  batch->sequences.push_back({.first_row = part.first_row,
                              .rows = rows,
                              .first_position = first,
                              .prompt_tokens = static_cast<int>(sequence.request->prompt.size()),
                              .blocks = sequence.blocks,
                              .state = sequence.state});
  scheduled_.push_back(part);
}

// So that no later step allocates.
void Scheduler::ReserveAll(Sequence& sequence) {
  const RequestState& state = *sequence.request;
  const size_t tokens = state.prompt.size() + state.max_tokens;
  sequence.tokens.reserve(tokens);
  sequence.blocks.reserve(BlocksFor(static_cast<int>(tokens)));
}

void Scheduler::Admit(StepBatch* batch) {
  for (size_t i = 0; i < waiting_.size();) {
    if (running() >= limits_.max_sequences || batch->rows() >= step_rows_) return;
    Sequence& sequence = *waiting_[i];
    if (sequence.waits_for_leader || Paused(sequence)) {
      ++i;
      continue;
    }
    TakeCached(sequence);
    if (IsBeingComputed(sequence)) {
      ++i;
      continue;
    }
    // In order, and only with room for the whole prompt: half a prompt would
    // hold blocks that running sequences soon need. With nothing running the
    // first one takes what there is.
    const int missing = BlocksFor(static_cast<int>(sequence.tokens.size()) + 1) -
                        static_cast<int>(sequence.blocks.size());
    if (missing > blocks_.free() && !scheduled_.empty()) {
      short_of_blocks_ = true;
      return;
    }
    const size_t parts = scheduled_.size();
    ReserveAll(sequence);
    Schedule(sequence, batch);
    if (scheduled_.size() == parts) return;
    // Reclaiming may have moved the others; find it again.
    const auto at = std::find_if(waiting_.begin(), waiting_.end(),
                                 [&](const auto& s) { return s.get() == &sequence; });
    std::unique_ptr<Sequence> moved = std::move(*at);
    i = static_cast<size_t>(waiting_.erase(at) - waiting_.begin());
    const auto place = std::find_if(running_.begin(), running_.end(),
                                    [&](const auto& s) { return s->order > moved->order; });
    running_.insert(place, std::move(moved));
  }
}

int Scheduler::decodable() {
  decoding_.clear();
  for (const auto& sequence : running_) {
    if (!sequence->decodes()) continue;
    if (Paused(*sequence)) {
      sequence->computed_at.reset();
      continue;
    }
    if (sequence->turn == 0) sequence->turn = ++turns_;
    decoding_.push_back(sequence.get());
  }
  return static_cast<int>(decoding_.size());
}

void Scheduler::EndSlice() {
  for (const ScheduledSequence& part : scheduled_) {
    if (part.sequence->turn > 0) part.sequence->turn = ++turns_;
  }
}

void Scheduler::ScheduleDecodes(int width, StepBatch* batch) {
  turn_ = decoding_;
  if (width < static_cast<int>(turn_.size())) {
    std::nth_element(turn_.begin(), turn_.begin() + width, turn_.end(),
                     [](const Sequence* a, const Sequence* b) { return a->turn < b->turn; });
    turn_.resize(width);
    // Blocks are the older ones' first, whoever's turn it is.
    std::sort(turn_.begin(), turn_.end(),
              [](const Sequence* a, const Sequence* b) { return a->order < b->order; });
  }
  for (Sequence* sequence : turn_) {
    if (sequence->decodes()) Schedule(*sequence, batch);  // not preempted meanwhile
  }
  if (!scheduled_.empty()) return;
  // There are no blocks for those whose turn it is; the oldest gets some.
  for (Sequence* sequence : decoding_) {
    if (sequence->decodes()) Schedule(*sequence, batch);
  }
}

void Scheduler::SchedulePrompts(StepBatch* batch) {
  // Scheduling one sequence may preempt another, so the list is walked by
  // order and not by iterator.
  uint64_t next = 0;
  for (;;) {
    const auto found = std::find_if(running_.begin(), running_.end(),
                                    [&](const auto& s) { return s->order >= next; });
    if (found == running_.end()) break;
    Sequence& sequence = **found;
    next = sequence.order + 1;
    if (sequence.decodes() || Paused(sequence)) continue;
    TakeCached(sequence);
    if (IsBeingComputed(sequence)) continue;
    Schedule(sequence, batch);
  }
}

bool Scheduler::BuildStep(StepBatch* batch, int width, int prompt_rows) {
  batch->tokens.clear();
  batch->positions.clear();
  batch->sequences.clear();
  batch->logit_rows.clear();
  scheduled_.clear();
  short_of_blocks_ = false;
  decodable();
  step_rows_ = limits_.step_rows;
  ScheduleDecodes(std::max(width, 1), batch);
  step_rows_ -= std::max(0, step_rows_ - batch->rows() - prompt_rows);
  SchedulePrompts(batch);
  Admit(batch);
  return !scheduled_.empty();
}

PrefixCache::Content Scheduler::ContentOf(const Sequence& sequence, int index) const {
  return {.parent = index > 0 ? sequence.blocks[index - 1] : PrefixCache::kNone,
          .salt = sequence.request->request.cache_salt,
          .tokens = std::span(sequence.tokens)
                        .subspan(size_t(index) * limits_.block_tokens, limits_.block_tokens)};
}

void Scheduler::TakeCached(Sequence& sequence) {
  const int taken = static_cast<int>(sequence.blocks.size());
  const bool at_block = taken * limits_.block_tokens == sequence.computed;
  if (limits_.recurrent || !at_block || sequence.cached_blocks < taken) return;
  // Positions whose logits are wanted are computed: the last one at least.
  const int most = sequence.logits_from() / limits_.block_tokens;
  for (int index = taken; index < most; ++index) {
    const std::optional<int32_t> block = blocks_.Take(ContentOf(sequence, index));
    if (!block.has_value()) break;
    sequence.blocks.push_back(*block);
  }
  sequence.cached_blocks = static_cast<int>(sequence.blocks.size());
  sequence.found += (sequence.cached_blocks - taken) * limits_.block_tokens;
  sequence.computed = sequence.cached_blocks * limits_.block_tokens;
}

void Scheduler::CountFound(Sequence& sequence) {
  RequestState& state = *sequence.request;
  const int found = std::exchange(sequence.found, 0);
  if (sequence.index > 0 || state.prompt_told || state.timings.preemptions > 0) return;
  state.usage.cached_prompt_tokens += found;
  prefix_stats_.found += found;
}

bool Scheduler::IsBeingComputed(const Sequence& sequence) const {
  const int first = sequence.computed / limits_.block_tokens;
  const int most = sequence.logits_from() / limits_.block_tokens;
  if (limits_.recurrent || first * limits_.block_tokens != sequence.computed) return false;
  for (const ScheduledSequence& part : scheduled_) {
    const Sequence& other = *part.sequence;
    const int end = std::min(most, (other.computed + part.rows) / limits_.block_tokens);
    if (other.computed > sequence.computed) continue;
    if (int64_t{end - first} * limits_.block_tokens * 2 < sequence.pending()) continue;
    if (other.request->request.cache_salt != sequence.request->request.cache_salt) continue;
    if (std::equal(sequence.tokens.begin(), sequence.tokens.begin() + end * limits_.block_tokens,
                   other.tokens.begin())) {
      return true;
    }
  }
  return false;
}

void Scheduler::Computed(Sequence& sequence, int rows) {
  sequence.computed += rows;
  if (!limits_.recurrent) CacheBlocks(sequence);
  const bool is_prompt = sequence.pending() == 0 && sequence.generated() == 0;
  if (!is_prompt || sequence.index > 0 || sequence.request->request.n == 1) return;
  for (const auto& other : waiting_) {
    if (other->request != sequence.request || !other->waits_for_leader) continue;
    other->waits_for_leader = false;
    TakeCached(*other);
  }
}

void Scheduler::CacheBlocks(Sequence& sequence) {
  while ((sequence.cached_blocks + 1) * limits_.block_tokens <= sequence.computed) {
    int32_t& block = sequence.blocks[sequence.cached_blocks];
    const auto cached = blocks_.Insert(ContentOf(sequence, sequence.cached_blocks), block);
    if (!cached.has_value()) break;
    block = *cached;
    ++sequence.cached_blocks;
  }
}

int Scheduler::BlocksToCome() const {
  int most = 0;
  for (const List* list : {&running_, &waiting_}) {
    for (const auto& sequence : *list) {
      const RequestState& state = *sequence->request;
      most = std::max(most, BlocksFor(static_cast<int>(state.prompt.size()) + state.max_tokens));
    }
  }
  return most;
}

void Scheduler::SetBlockLimit(int limit) {
  blocks_.set_limit(limit);
  for (Sequence* sequence : all()) {
    const std::vector<int32_t>& blocks = sequence->blocks;
    if (std::any_of(blocks.begin(), blocks.end(), [&](int32_t block) { return block >= limit; })) {
      Preempt(*sequence);
    }
  }
}

void Scheduler::Remove(Sequence* sequence) {
  FreeBlocks(*sequence);
  std::erase_if(scheduled_, [&](const auto& s) { return s.sequence == sequence; });
  for (List* list : {&running_, &waiting_}) {
    std::erase_if(*list, [&](const auto& s) { return s.get() == sequence; });
  }
}

}  // namespace hostler
