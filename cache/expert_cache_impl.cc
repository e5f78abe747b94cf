#include "cache/expert_cache_impl.h"

#include <algorithm>
#include <cassert>
#include <optional>
#include <system_error>
#include <utility>

#include "cache/store_sizes.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// Of a guess's chance, where nobody governs; and beside a prompt, whose rows
// together ask for what is at all likely.
constexpr float kLikely = 0.5f;
// Slots that a prompt's missing experts take whatever they push out, as many times
// over as there are reads at once; beyond, they push out what is worth less.
constexpr int kPromptSlotsPerRead = 2;
// Reads of Preload() under way at once: a demand may have to wait for them.
constexpr int kPreloadReads = 2;

std::vector<MissRatioEstimator::Layer> SlotsOf(const ExpertStore& store, const SlotTable& table) {
  std::vector<MissRatioEstimator::Layer> layers;
  for (int layer = 0; layer < store.num_layers(); ++layer) {
    layers.push_back({store.num_experts(layer), table.Stride(layer)});
  }
  return layers;
}

}  // namespace

ExpertCache::Impl::Impl(Parts parts)
    : parts_(std::move(parts)),
      slots_(parts_.table.num_slots()),
      evictable_([this](ExpertKey key) { return IsEvictable(key); }),
      hybrid_(parts_.options.hybrid),
      host_waiting_(parts_.max_experts_per_layer),
      demanded_(parts_.max_experts_per_layer),
      reads_(parts_.source->depth()),
      miss_ratio_(SlotsOf(*parts_.store, parts_.table)) {
  counters_.resident = std::vector<std::atomic<int>>(parts_.store->num_layers());
  counters_.capacity_bytes = parts_.table.budget();
  for (int id = parts_.source->depth(); id-- > 0;) free_reads_.push_back(id);
  const size_t most = parts_.max_experts_per_layer;
  waiting_.reserve(most);
  ready_.reserve(most);
  delivered_.reserve(most);
  decoded_.reserve(most);
  of_decodes_.resize(most);
  rows_.resize(most);
  missing_.reserve(most);
  promotions_.reserve(kMostPromotions);
  guessed_.reserve(most);
  predicted_.reserve(most);
}

ExpertCache::Impl::~Impl() {
  assert(!acquiring_);
  parts_.source->Stop();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status ExpertCache::Impl::StartThreads(int workers) {
  threads_.reserve(workers);
  try {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { Work(); });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(fmt::format("no I/O thread: {}", error.what()));
  }
  return absl::OkStatus();
}

void ExpertCache::Impl::Begin(const ExpertRequest& request) {
  std::lock_guard lock(mutex_);
  assert(!acquiring_);
  acquiring_ = true;
  layer_ = request.layer;
  asked_ = undelivered_ = request.experts.size();
  next_waiting_ = 0;
  released_ = 0;
  waiting_.clear();
  prompt_ = request.num_tokens() > request.sequences;
  TellPolicy(request);
  // Every hit is pinned before the first victim is chosen.
  const uint64_t hits_before = counters_.hits();
  for (const int expert : request.experts) Want({layer_, expert});
  const int hits = static_cast<int>(counters_.hits() - hits_before);
  DropStaleGuesses();
  if (parts_.host != nullptr && !waiting_.empty()) ChooseForHost(request);
  HandOutSlots();
  StartReads();
  if (parts_.predictor != nullptr) Predict(request);
  miss_ratio_.OnRequest(request, hits, parts_.table.budget());  // while the disk reads
}

std::span<const AcquiredExpert> ExpertCache::Impl::Next() {
  std::unique_lock lock(mutex_);
  released_ += delivered_.size();
  Release(&delivered_);
  HandOutSlots();
  StartReads();
  if (undelivered_ == 0) return {};
  if (ready_.empty()) {
    const Clock::time_point start = Clock::now();
    progress_.wait(lock, [this] { return !ready_.empty(); });
    counters_.stall_ns += NanosecondsSince(start);
  }
  std::swap(ready_, delivered_);
  undelivered_ -= delivered_.size();
  return delivered_;
}

void ExpertCache::Impl::End() {
  std::lock_guard lock(mutex_);
  acquiring_ = false;
  next_waiting_ = waiting_.size();
  while (!demanded_.empty()) Forget(demanded_.Pop());
  while (!host_waiting_.empty()) host_waiting_.Pop();
  for (ReadUse& read : reads_) {
    (read.slot == ExpertSource::kHost ? read.wanted : slots_[read.slot].wanted) = false;
  }
  Release(&ready_);
  Release(&delivered_);
  Trim();
  StartReads();
}

void ExpertCache::Impl::Prefetch(std::span<const ExpertGuess> guesses) {
  std::lock_guard lock(mutex_);
  Guess(guesses);
}

bool ExpertCache::Impl::WantsGuesses() const {
  std::lock_guard lock(mutex_);
  return LeastChance() <= 1;
}

ExpertCacheStep ExpertCache::Impl::EndStep(const StepCost& cost) {
  std::lock_guard lock(mutex_);
  const auto since_before = [](auto now, auto* before) {
    return now - std::exchange(*before, now);
  };
  ExpertCacheStep step;
  step.misses = since_before(counters_.misses(), &misses_before_);
  step.read_bytes = since_before(counters_.read_bytes(), &read_bytes_before_);
  step.stall_seconds =
      static_cast<double>(since_before(counters_.stall_ns.load(), &stall_ns_before_)) * 1e-9;
  step.capacity_bytes = counters_.capacity_bytes;
  governor_.OnStep(cost, step.misses);
  const PrefetchGovernor::Report report = governor_.report();
  counters_.least_chance = LeastChance(report.least_chance);
  counters_.prefetch_trials = report.trials;
  counters_.prefetch_difference = report.last_difference;
  return step;
}

void ExpertCache::Impl::Preload(std::span<const ExpertKey> pinned,
                                std::span<const ExpertKey> popular) {
  std::lock_guard lock(mutex_);
  preload_.assign(pinned.begin(), pinned.end());
  preload_.insert(preload_.end(), popular.begin(), popular.end());
  next_preload_ = 0;
  pinned_preloads_ = pinned.size();
  StartReads();
}

void ExpertCache::Impl::SetCapacity(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  parts_.table.set_budget(
      std::max({bytes, parts_.table.largest_slot(), parts_.options.least_bytes}));
  counters_.capacity_bytes = parts_.table.budget();
  Trim();
  HandOutSlots();
  StartReads();
}

ExpertCacheStats ExpertCache::Impl::stats() const {
  ExpertCacheStats stats = counters_.Read();
  for (const uint64_t bytes : ResidentBytes()) stats.resident_bytes += bytes;
  stats.model_bytes = parts_.table.all_bytes();
  stats.locked = parts_.table.locked();
  stats.on_device = !parts_.table.tier().on_host();
  if (parts_.host != nullptr) stats.host = parts_.host->stats();
  return stats;
}

std::vector<uint64_t> ExpertCache::Impl::ResidentBytes() const {
  std::vector<uint64_t> bytes;
  for (size_t layer = 0; layer < counters_.resident.size(); ++layer) {
    const size_t each = parts_.store->slot_bytes(static_cast<int>(layer));
    bytes.push_back(counters_.resident[layer] * SlotStride(each));
  }
  return bytes;
}

Popularity ExpertCache::Impl::ExportPopularity() const {
  std::lock_guard lock(mutex_);
  return parts_.policy->ExportPopularity();
}

std::vector<MissRatioPoint> ExpertCache::Impl::MissRatioCurve() const {
  std::lock_guard lock(mutex_);
  return miss_ratio_.Curve();
}

float ExpertCache::Impl::LeastChance() const {
  return LeastChance(prompt_ ? kLikely : governor_.least_chance());
}

float ExpertCache::Impl::LeastChance(float governed) const {
  if (parts_.options.speculative_reads == 0 || parts_.table.holds_all()) {
    return PrefetchGovernor::kNever;
  }
  return parts_.options.govern_prefetch ? governed : kLikely;
}

void ExpertCache::Impl::Predict(const ExpertRequest& request) {
  parts_.predictor->OnRequest(request);
  predicted_.clear();
  if (LeastChance() <= 1) parts_.predictor->Predict(1, &predicted_);
  Guess(predicted_);
}

void ExpertCache::Impl::Guess(std::span<const ExpertGuess> guesses) {
  guessed_.clear();
  const float least_chance = LeastChance();
  for (const ExpertGuess& guess : guesses) {
    if (guessed_.size() == guessed_.capacity()) break;
    if (guess.chance < least_chance) continue;
    if (parts_.table.Find(guess.key) == kNone) guessed_.push_back(guess.key);
  }
  StartReads();
}

// Beside decodes, a prompt passes: what is worth keeping is what they use.
void ExpertCache::Impl::TellPolicy(const ExpertRequest& request) {
  if (request.decodes == 0 || request.decodes >= request.num_tokens()) {
    parts_.policy->OnRequest(request);
    return;
  }
  ExpertRequest part = request;
  part.offsets = request.offsets.first(size_t(request.decodes) + 1);
  part.chosen = request.chosen.first(size_t(part.offsets.back()));
  part.sequences = request.decodes;
  for (const int expert : part.chosen) of_decodes_[expert] = true;
  decoded_.clear();
  for (const int expert : request.experts) {
    if (of_decodes_[expert]) decoded_.push_back(expert);
  }
  for (const int expert : part.chosen) of_decodes_[expert] = false;
  part.experts = decoded_;
  parts_.policy->OnRequest(decoded_.empty() ? request : part);
}

bool ExpertCache::Impl::IsEvictable(ExpertKey key) const {
  const int slot = parts_.table.Find(key);
  return slot != kNone && slots_[slot].state == SlotState::kResident;
}

void ExpertCache::Impl::Deliver(int slot) {
  slots_[slot].state = SlotState::kPinned;
  ++counters_.pinned_slots;
  ready_.push_back({parts_.table.key(slot).expert, parts_.table.memory(slot).data(), {}});
}

void ExpertCache::Impl::Want(ExpertKey key) {
  const int slot = parts_.table.Find(key);
  if (slot == kNone) {
    ++counters_.demand_misses;
    waiting_.push_back(key.expert);
    return;
  }
  SlotUse& use = slots_[slot];
  const bool guessed = std::exchange(use.speculative, false);
  if (guessed) counters_.speculative_useful_bytes += StoredBytes(*parts_.store, key);
  if (use.state == SlotState::kResident) {
    ++(guessed ? counters_.speculative_hits : counters_.demand_hits);
    Deliver(slot);
    return;
  }
  ++(guessed ? counters_.speculative_late : counters_.demand_misses);
  MarkWanted(slot);  // being read: nothing is queued when an acquisition begins
  reading_guesses_ -= guessed;
}

// What was guessed of the layer that has now said what it wants.
void ExpertCache::Impl::DropStaleGuesses() {
  std::erase_if(guessed_, [this](ExpertKey key) { return key.layer == layer_; });
}

void ExpertCache::Impl::Release(std::vector<AcquiredExpert>* experts) {
  for (const AcquiredExpert& expert : *experts) {
    if (expert.data == nullptr) continue;
    if (expert.on_host) {
      parts_.host->Release({layer_, expert.expert});
      continue;
    }
    slots_[parts_.table.Find({layer_, expert.expert})].state = SlotState::kResident;
    --counters_.pinned_slots;
  }
  experts->clear();
  Trim();
}

void ExpertCache::Impl::Forget(int slot) {
  parts_.policy->OnErase(parts_.table.key(slot));
  slots_[slot] = {};
  parts_.table.Free(slot);
}

void ExpertCache::Impl::Evict(ExpertKey key) {
  const int slot = parts_.table.Find(key);
  if (slots_[slot].speculative) {
    ++counters_.speculative_wasted;
    counters_.speculative_wasted_bytes += StoredBytes(*parts_.store, key);
  }
  --counters_.resident[key.layer];
  ++counters_.evictions;
  Forget(slot);
}

// After the capacity went down.
void ExpertCache::Impl::Trim() {
  ExpertKey victim;
  while (parts_.table.over_budget() && parts_.policy->PickVictim(evictable_, &victim)) {
    Evict(victim);
  }
}

// A queued slot for `key`, by eviction if need be; kNone when all are in use, kNotWorth
// when only what is worth more than it would have to leave, `if_worth`.
int ExpertCache::Impl::TakeSlot(ExpertKey key, bool if_worth) {
  for (;;) {
    if (const std::optional<int> slot = parts_.table.Take(key)) {
      slots_[*slot] = {.state = SlotState::kQueued};
      parts_.policy->OnInsert(key);
      return *slot;
    }
    ExpertKey victim;
    if (parts_.policy->PickVictim(evictable_, &victim)) {
      if (if_worth && !parts_.policy->Admits(key, victim)) return kNotWorth;
      Evict(victim);
    } else {
      return kNone;
    }
  }
}

// Whether the acquisition is a prompt's and has slots enough to keep the disk
// busy: the rest can wait for those, and what others use stays.
bool ExpertCache::Impl::PromptHasSlots() const {
  if (!prompt_) return false;
  const size_t hits = asked_ - waiting_.size();
  const size_t held = next_waiting_ - (released_ - std::min(released_, hits));
  return held >= kPromptSlotsPerRead * reads_.size();
}

// Queues reads for the experts that wait, in order, as far as slots go.
void ExpertCache::Impl::HandOutSlots() {
  for (; next_waiting_ < waiting_.size(); ++next_waiting_) {
    const int expert = waiting_[next_waiting_];
    const bool host_will_do = HostWillDo(expert);
    const int slot = TakeSlot({layer_, expert}, host_will_do || PromptHasSlots());
    if (slot == kNotWorth && host_will_do) {
      SendToHost(expert);
      continue;
    }
    if (slot < 0) return;
    MarkWanted(slot);
    demanded_.Push(slot);
  }
}

void ExpertCache::Impl::MarkWanted(int slot) {
  SlotUse& use = slots_[slot];
  use.wanted = true;
  use.wanted_at = Clock::now();
  if (use.state == SlotState::kReading) parts_.source->Demand(use.read);
}

// A slot for the next expert of Preload(); kNone: not now, or never again.
int ExpertCache::Impl::TakePreload() {
  if (preloading_ == kPreloadReads) return kNone;
  if (const int slot = TakePromotion(); slot != kNone) return slot;
  for (; next_preload_ < preload_.size(); ++next_preload_) {
    const ExpertKey key = preload_[next_preload_];
    if (parts_.table.Find(key) != kNone) continue;
    int slot = kNone;
    if (next_preload_ < pinned_preloads_) {
      slot = TakeSlot(key, /*if_worth=*/true);
      if (slot < 0) return kNone;
    } else if (const std::optional<int> room = parts_.table.Take(key)) {
      slot = *room;
      parts_.policy->OnInsert(key);
    } else {
      // Full: what came meanwhile was asked for.
      next_preload_ = preload_.size();
      break;
    }
    slots_[slot] = {.state = SlotState::kQueued, .preload = true};
    ++next_preload_;
    ++preloading_;
    return slot;
  }
  return kNone;
}

// Begins reads in their order: guesses when no one waits, and only so many.
void ExpertCache::Impl::StartReads() {
  while (!free_reads_.empty()) {
    if (!demanded_.empty()) {
      StartRead(demanded_.Pop());
    } else if (!host_waiting_.empty()) {
      StartHostRead(host_waiting_.Pop());
    } else {
      int slot = kNone;
      if (next_waiting_ == waiting_.size()) {
        slot = TakeGuess();
        if (slot == kNone && guessed_.empty()) slot = TakePreload();
      }
      if (slot == kNone) break;
      StartRead(slot);
    }
  }
  counters_.reads_in_flight = static_cast<int>(reads_.size() - free_reads_.size());
  counters_.reads_queued =
      static_cast<int>(demanded_.size() + host_waiting_.size() + guessed_.size());
  counters_.speculative_in_flight = reading_guesses_;
  counters_.speculative_queued = static_cast<int>(guessed_.size());
  counters_.preloads_left = static_cast<int>(preload_.size() - next_preload_);
  counters_.preloads_in_flight = preloading_;
}

// A slot for the likeliest guess that is worth one; kNone when none is, or
// enough are being read.
int ExpertCache::Impl::TakeGuess() {
  while (!guessed_.empty() && reading_guesses_ < parts_.options.speculative_reads) {
    const ExpertKey key = guessed_.front();
    guessed_.erase(guessed_.begin());
    if (parts_.table.Find(key) != kNone) continue;
    const int slot = TakeSlot(key, /*if_worth=*/true);
    if (slot < 0) continue;
    slots_[slot].speculative = true;
    ++reading_guesses_;
    return slot;
  }
  return kNone;
}

int ExpertCache::Impl::TakeRead() {
  const int id = free_reads_.back();
  free_reads_.pop_back();
  reads_[id] = {};
  return id;
}

void ExpertCache::Impl::StartRead(int slot) {
  const int id = TakeRead();
  reads_[id].slot = slot;
  reads_[id].key = parts_.table.key(slot);
  slots_[slot].state = SlotState::kReading;
  slots_[slot].read = id;
  Read(id);
}

// Begins it, and counts what the disk is asked for.
void ExpertCache::Impl::Read(int id) {
  const ReadUse& read = reads_[id];
  const SlotUse use =
      read.slot == ExpertSource::kHost ? SlotUse{.wanted = true} : slots_[read.slot];
  const uint64_t bytes = StoredBytes(*parts_.store, read.key);
  if (!parts_.source->Start(id, read.key, read.slot, use.wanted)) return;
  if (use.wanted) {
    ++counters_.demand_reads;
    counters_.demand_bytes += bytes;
  } else if (use.speculative) {
    ++counters_.speculative_reads;
    counters_.speculative_bytes += bytes;
  } else {
    ++counters_.preload_reads;
    counters_.preload_bytes += bytes;
  }
}

// Begins a read that failed again, if it is worth another attempt.
bool ExpertCache::Impl::Retry(int id, int most) {
  ReadUse& read = reads_[id];
  const bool wanted = read.slot == ExpertSource::kHost ? read.wanted : slots_[read.slot].wanted;
  if (!wanted || read.retries >= most) return false;
  ++read.retries;
  ++counters_.read_retries;
  Read(id);
  return true;
}

void ExpertCache::Impl::Work() {
  ExpertSource::Done done;
  while (parts_.source->Wait(&done)) {
    std::lock_guard lock(mutex_);
    if (!done.status.ok() && Retry(done.id, done.retries)) continue;
    if (done.copied_bytes > 0 && done.status.ok()) {
      ++counters_.copies;
      counters_.copied_bytes += done.copied_bytes;
      hybrid_.OnCopy(done.copied_bytes, done.copy_seconds);
    }
    if (reads_[done.id].slot == ExpertSource::kHost) {
      FinishHostRead(&done);
    } else {
      Finish(&done);
    }
    free_reads_.push_back(done.id);
    Trim();
    HandOutSlots();
    StartReads();
    progress_.notify_one();
  }
}

void ExpertCache::Impl::Finish(ExpertSource::Done* done) {
  const int slot = reads_[done->id].slot;
  SlotUse& use = slots_[slot];
  reading_guesses_ -= use.speculative;
  preloading_ -= std::exchange(use.preload, false);
  if (done->status.ok()) {
    use.state = SlotState::kResident;
    ++counters_.resident[parts_.table.key(slot).layer];
    if (std::exchange(use.wanted, false)) {
      counters_.demand_latency.Add(NanosecondsSince(use.wanted_at));
      Deliver(slot);
    }
    return;
  }
  ++counters_.read_errors;
  if (use.wanted) {
    ready_.push_back({.expert = parts_.table.key(slot).expert, .status = std::move(done->status)});
  }
  Forget(slot);
}

}  // namespace hostler
