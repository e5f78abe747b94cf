#include "engine/engine/engine_loop.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/engine/output.h"
#include "fmt/format.h"

namespace hostler {

EngineLoop::EngineLoop(const LoadedModel* model, const ModelMemory& memory, BlockPool blocks,
                       MemorySplit* split, const Options& options)
    : model_(*model),
      memory_(memory),
      split_(split),
      recorder_(options.recorder),
      max_queue_(options.max_queue),
      scheduler_(options.limits, std::move(blocks)),
      width_(options.width),
      chunk_(options.chunk) {
  const Scheduler::Limits& limits = options.limits;
  batch_.tokens.reserve(limits.step_rows);
  batch_.positions.reserve(limits.step_rows);
  batch_.logit_rows.reserve(limits.logit_rows);
  result_.trace = recorder_;
  PublishStats();
  thread_ = std::thread([this] { Run(); });
}

EngineLoop::~EngineLoop() {
  {
    std::lock_guard lock(mutex_);
    draining_ = stopping_ = news_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

absl::Status EngineLoop::Submit(std::vector<std::unique_ptr<Sequence>> sequences) {
  {
    std::lock_guard lock(mutex_);
    if (draining_) return absl::UnavailableError("the server is shutting down");
    const int count = static_cast<int>(sequences.size());
    if (queued_ + count > max_queue_) {
      return absl::ResourceExhaustedError(
          fmt::format("{} sequences are waiting already; try again later", queued_));
    }
    queued_ += count;
    GenerateStream& stream = *sequences.front()->request->stream;
    stream.OnDrain([this] { Wake(); });
    for (auto& sequence : sequences) submitted_.push_back(std::move(sequence));
    news_ = true;
  }
  wake_.notify_one();
  return absl::OkStatus();
}

void EngineLoop::Wake() {
  {
    std::lock_guard lock(mutex_);
    news_ = true;
  }
  wake_.notify_one();
}

void EngineLoop::Drain(int deadline_ms) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  const bool done = idle_.wait_for(lock, std::chrono::milliseconds(deadline_ms),
                                   [this] { return !busy_ && submitted_.empty(); });
  if (done) return;
  stopping_ = news_ = true;
  wake_.notify_one();
  idle_.wait(lock, [this] { return !busy_ && submitted_.empty(); });
}

EngineStats EngineLoop::stats() const {
  EngineStats stats;
  {
    std::lock_guard lock(mutex_);
    stats = stats_;
  }
  if (memory_.cache != nullptr) stats.experts = memory_.cache->stats();
  return stats;
}

bool EngineLoop::TakeSubmitted() {
  std::vector<std::unique_ptr<Sequence>> taken;
  bool stopping = false;
  {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return news_; });
    news_ = false;
    taken.swap(submitted_);
    busy_ = busy_ || !taken.empty();
    stopping = stopping_;
  }
  for (size_t i = 0; i < taken.size();) {
    std::vector<std::unique_ptr<Sequence>> request;
    const RequestState* state = taken[i]->request.get();
    while (i < taken.size() && taken[i]->request.get() == state) {
      request.push_back(std::move(taken[i++]));
    }
    scheduler_.Add(std::move(request));
  }
  return !stopping;
}

void EngineLoop::Run() {
  while (TakeSubmitted()) {
    DropCancelled();
    if (split_ != nullptr) split_->Apply(&scheduler_);
    const int width = width_.Width(scheduler_.decodable());
    if (scheduler_.BuildStep(&batch_, width, chunk_.Rows(width))) {
      Step();
      Wake();
    }
    PublishStats();
    Deliver();
  }
  EndAll(absl::UnavailableError("the server is shutting down"));
  PublishStats();
  Deliver();
}

void EngineLoop::DropCancelled() {
  const auto is_cancelled = [](const Sequence& s) { return s.request->stream->cancelled(); };
  while (const Sequence* sequence = scheduler_.Find(is_cancelled)) {
    EndRequest(sequence->request, absl::CancelledError("the client is gone"));
  }
}

void EngineLoop::Step() {
  const auto start = std::chrono::steady_clock::now();
  for (const ScheduledSequence& part : scheduler_.scheduled()) {
    Timings& timings = part.sequence->request->timings;
    if (timings.queued_ms == 0) timings.queued_ms = part.sequence->request->MsSinceArrival();
  }
  StepSample cost = SampleParts(start);
  AskForLogits();
  if (recorder_ != nullptr) recorder_->BeginStep(batch_);
  model_.model->Forward(batch_, memory_, &result_);
  if (recorder_ != nullptr) recorder_->EndStep();
  health_ = model_.weights->Health();
  const auto end = std::chrono::steady_clock::now();
  cost.seconds = std::chrono::duration<double>(end - start).count();
  totals_.step_seconds += cost.seconds;
  ++totals_.steps;
  for (const ScheduledSequence& part : scheduler_.scheduled()) {
    part.sequence->computed_at = end;
  }
  for (const Sequence* sequence : scheduler_.decoding()) {
    if (!sequence->decodes() || !sequence->computed_at.has_value()) continue;
    const std::chrono::duration<double> wait = end - *sequence->computed_at;
    cost.longest_wait = std::max(cost.longest_wait, wait.count());
  }
  Learn(cost);

  // Ending a request removes all its sequences, so parts are looked up anew.
  parts_.assign(scheduler_.scheduled().begin(), scheduler_.scheduled().end());
  for (const ScheduledSequence& part : parts_) {
    const auto alive = scheduler_.scheduled();
    const bool there = std::any_of(alive.begin(), alive.end(), [&](const auto& other) {
      return other.sequence == part.sequence;
    });
    if (there) FinishPart(part);
  }
}

// What the step is, before it is computed.
StepSample EngineLoop::SampleParts(std::chrono::steady_clock::time_point start) {
  StepSample cost;
  double& longest = totals_.schedule.longest_wait_seconds;
  for (const ScheduledSequence& part : scheduler_.scheduled()) {
    const Sequence& sequence = *part.sequence;
    if (!sequence.decodes()) {
      cost.prompt_rows += part.rows;
      continue;
    }
    ++cost.decodes;
    if (!sequence.computed_at.has_value()) continue;
    const std::chrono::duration<double> wait = start - *sequence.computed_at;
    longest = std::max(longest, wait.count());
  }
  return cost;
}

// Tells those who decide about the next steps what this one took.
void EngineLoop::Learn(StepSample cost) {
  if (memory_.cache != nullptr) {
    const ExpertCacheStep experts =
        memory_.cache->EndStep({cost.decodes, cost.prompt_rows, cost.seconds});
    cost.stall_seconds = experts.stall_seconds;
    cost.read_bytes = experts.read_bytes;
    cost.cache_bytes = experts.capacity_bytes;
    split_->Observe(scheduler_, experts.misses);
  }
  chunk_.OnStep(cost);
  if (width_.OnStep(cost)) scheduler_.EndSlice();
  ScheduleStats& stats = totals_.schedule;
  if (cost.decodes > 0) stats.width = cost.decodes;
  stats.slices = width_.slices();
  stats.probes = width_.probes();
}

absl::Status EngineLoop::PartStatus(const ScheduledSequence& part) const {
  if (!health_.ok()) return health_;
  if (result_.row_status.empty()) return absl::OkStatus();
  absl::Status status;
  for (int row = part.first_row; row < part.first_row + part.rows; ++row) {
    status.Update(result_.row_status[row]);
  }
  return status;
}

void EngineLoop::AskForLogits() {
  batch_.strongest.clear();
  const int most = model_.backend->MostStrongest();
  if (most == 0) return;
  batch_.strongest.assign(batch_.logit_rows.size(), 0);
  for (const ScheduledSequence& part : scheduler_.scheduled()) {
    if (part.logits != 1 || part.sequence->wants_prompt_logits()) continue;
    const int needed = StrongestNeeded(*part.sequence);
    if (needed <= most) batch_.strongest[part.first_logit] = needed;
  }
}

std::span<const float> EngineLoop::Logits(int index) const {
  return result_.Logits(index, model_.model->info().vocab);
}

void EngineLoop::FinishPart(const ScheduledSequence& part) {
  Sequence& sequence = *part.sequence;
  if (const absl::Status status = PartStatus(part); !status.ok()) {
    EndRequest(sequence.request, status);
    return;
  }
  if (!sequence.decodes()) totals_.prompt_tokens += part.rows;
  scheduler_.Computed(sequence, part.rows);
  if (sequence.wants_prompt_logits()) ScorePrompt(part);
  if (sequence.pending() > 0) return;
  if (sequence.request->all_logits != nullptr) {
    EndRequest(sequence.request, absl::OkStatus());
    return;
  }
  Generate(part);
}

// Uses the logits of prompt positions not used before.
void EngineLoop::ScorePrompt(const ScheduledSequence& part) {
  Sequence& sequence = *part.sequence;
  RequestState& state = *sequence.request;
  const int prompt_size = static_cast<int>(state.prompt.size());
  for (int i = 0; i < part.logits; ++i) {
    const int position = sequence.computed - part.logits + i;
    if (position != sequence.scored || position >= prompt_size) continue;
    const std::span<const float> logits = Logits(part.first_logit + i);
    if (state.all_logits != nullptr) {
      state.all_logits->insert(state.all_logits->end(), logits.begin(), logits.end());
    } else if (position + 1 < prompt_size) {
      state.prompt_logprobs.push_back(MakeLogprobs(logits, state.prompt[position + 1],
                                                   *state.request.prompt_logprobs,
                                                   model_.text.tokenizer.get()));
    }
    ++sequence.scored;
  }
}

void EngineLoop::Generate(const ScheduledSequence& part) {
  Sequence& sequence = *part.sequence;
  const std::shared_ptr<RequestState> state = sequence.request;
  if (!state->prompt_told) {
    state->stream->SetPrompt({state->prompt, std::move(state->prompt_logprobs)});
    state->prompt_told = true;
  }
  const int index = part.first_logit + part.logits - 1;
  std::span<const float> logits = Logits(index);
  std::optional<int32_t> token;
  if (logits.empty()) {
    token = DrawToken(sequence, result_.Strongest(index), model_.model->info().vocab);
  }
  if (!token.has_value()) {
    if (logits.empty()) {
      const absl::Status status = model_.model->ReadLogits(result_, index, &whole_logits_);
      if (!status.ok()) return EndRequest(state, status);
      logits = whole_logits_;
    }
    token = DrawToken(sequence, logits);
  }
  GenerateEvent& event = NewDelivery(state).event;
  AddToken(sequence, *token, logits, model_.text.tokenizer.get(), &event);
  if (state->timings.first_token_ms == 0) state->timings.first_token_ms = state->MsSinceArrival();
  ++totals_.generated_tokens;
  if (!event.finish_reason.has_value()) return;
  scheduler_.Remove(&sequence);
  if (--state->live == 0) EndRequest(state, absl::OkStatus());
}

EngineLoop::Delivery& EngineLoop::NewDelivery(std::shared_ptr<RequestState> state) {
  if (deliveries_ == outbox_.size()) outbox_.emplace_back();
  Delivery& delivery = outbox_[deliveries_++];
  delivery.state = std::move(state);
  delivery.is_end = false;
  return delivery;
}

void EngineLoop::EndRequest(std::shared_ptr<RequestState> state, const absl::Status& status) {
  for (Sequence* sequence : scheduler_.all()) {
    if (sequence->request == state) scheduler_.Remove(sequence);
  }
  state->timings.total_ms = state->MsSinceArrival();
  Delivery& delivery = NewDelivery(std::move(state));
  delivery.is_end = true;
  delivery.status = status;
}

void EngineLoop::EndAll(const absl::Status& status) {
  std::vector<std::unique_ptr<Sequence>> submitted;
  {
    std::lock_guard lock(mutex_);
    submitted.swap(submitted_);
  }
  scheduler_.Add(std::move(submitted));
  for (std::vector<Sequence*> left = scheduler_.all(); !left.empty(); left = scheduler_.all()) {
    EndRequest(left.front()->request, status);
  }
}

void EngineLoop::PublishStats() {
  EngineStats stats = totals_;
  stats.running = scheduler_.running();
  stats.waiting = scheduler_.waiting();
  stats.paused = scheduler_.paused();
  stats.kv_blocks_total = scheduler_.blocks().limit();
  stats.kv_blocks_used = scheduler_.blocks().used();
  stats.kv_blocks_cached = scheduler_.blocks().cached();
  stats.prefix_queried_tokens = scheduler_.prefix_stats().queried;
  stats.prefix_found_tokens = scheduler_.prefix_stats().found;
  stats.prefix_evictions = scheduler_.blocks().evictions();
  stats.preemptions = scheduler_.preemptions();
  stats.graphs = model_.backend->graph_counts();
  {
    std::lock_guard lock(mutex_);
    stats_ = stats;
    queued_ = stats.waiting + static_cast<int>(submitted_.size());
    stats_.waiting = queued_;
  }
}

void EngineLoop::Deliver() {
  for (size_t i = 0; i < deliveries_; ++i) {
    Delivery& news = outbox_[i];
    const std::shared_ptr<RequestState> state = std::move(news.state);
    if (news.is_end) {
      state->stream->End(std::move(news.status), state->usage, state->timings);
    } else {
      state->stream->Push(std::move(news.event));
    }
  }
  deliveries_ = 0;
  {
    std::lock_guard lock(mutex_);
    busy_ = scheduler_.running() + scheduler_.waiting() > 0;
  }
  idle_.notify_all();
}

}  // namespace hostler
