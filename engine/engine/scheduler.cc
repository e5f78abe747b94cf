#include "engine/engine/scheduler.h"

#include <algorithm>
#include <utility>

namespace hostler {
namespace {

// A client that does not read: nothing more is computed for it meanwhile.
bool Paused(const Sequence& sequence) { return sequence.request->stream->full(); }

}  // namespace

Scheduler::Scheduler(const Limits& limits, BlockPool blocks)
    : limits_(limits), pool_(std::move(blocks)) {
  if (!limits.recurrent) return;
  for (int32_t slot = limits.max_sequences - 1; slot >= 0; --slot) free_states_.push_back(slot);
}

void Scheduler::Add(std::vector<std::unique_ptr<Sequence>> sequences) {
  for (auto& sequence : sequences) {
    sequence->order = next_order_++;
    sequence->waits_for_leader = sequence->index > 0;
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
  for (int32_t block : sequence.blocks) pool_.Release(block);
  sequence.blocks.clear();
  sequence.computed = 0;
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
    if (const std::optional<int32_t> block = pool_.Allocate()) {
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
    // In order, and only with room for the whole prompt: half a prompt would
    // hold blocks that running sequences soon need. With nothing running the
    // first one takes what there is.
    const int missing = BlocksFor(static_cast<int>(sequence.tokens.size()) + 1) -
                        static_cast<int>(sequence.blocks.size());
    if (missing > pool_.free() && !scheduled_.empty()) {
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

void Scheduler::SharePrefix(const Sequence& leader) {
  // The last token is computed by each sequence, which needs its logits.
  const int prompt_size = static_cast<int>(leader.request->prompt.size());
  const int blocks = limits_.recurrent ? 0 : (prompt_size - 1) / limits_.block_tokens;
  for (const auto& sequence : waiting_) {
    if (sequence->request != leader.request || !sequence->waits_for_leader) continue;
    sequence->waits_for_leader = false;
    sequence->blocks.assign(leader.blocks.begin(), leader.blocks.begin() + blocks);
    for (int32_t block : sequence->blocks) pool_.AddRef(block);
    sequence->computed = blocks * limits_.block_tokens;
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
  pool_.set_limit(limit);
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
