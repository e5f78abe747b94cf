#include "cache/expert_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "cache/cache_counters.h"
#include "cache/id_queue.h"
#include "cache/slot_table.h"
#include "cache/store_sizes.h"

namespace hostler {
namespace {

// Of a guess's chance, where nobody governs; and beside a prompt, whose rows
// together ask for what is at all likely.
constexpr float kLikely = 0.5f;
// Attempts more at a read that someone waits for: after an error of the disk,
// and after bytes that fail their check (they may have been hurt on their way).
constexpr int kRetriesAfterError = 2, kRetriesAfterDamage = 1;
// Slots that a prompt's missing experts take whatever they push out, as many times
// over as there are reads at once; beyond, they push out what is worth less.
constexpr int kPromptSlotsPerRead = 2;
// Reads of Preload() at the disk at once: a demand may have to wait for them.
constexpr int kPreloadReads = 2;

using Clock = std::chrono::steady_clock;

enum class SlotState : uint8_t {
  kFree,
  kQueued,    // its read has not begun
  kReading,   // its read is under way
  kResident,  // may be evicted
  kPinned,    // resident, and the acquisition delivers or has delivered it
};

struct SlotUse {
  SlotState state = SlotState::kFree;
  bool wanted = false;       // the acquisition waits for its read
  bool speculative = false;  // read on a guess, and not asked for so far
  bool preload = false;      // read by Preload(), until the read ends
  Clock::time_point wanted_at = {};
};

absl::Status NameExpert(const absl::Status& status, ExpertKey key) {
  if (status.ok()) return status;
  return absl::Status(status.code(), fmt::format("MoE layer {}, expert {}: {}", key.layer,
                                                 key.expert, std::string(status.message())));
}

int64_t NanosecondsSince(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

std::vector<MissRatioEstimator::Layer> SlotsOf(const ExpertStore& store, const SlotTable& table) {
  std::vector<MissRatioEstimator::Layer> layers;
  for (int layer = 0; layer < store.num_layers(); ++layer) {
    layers.push_back({store.num_experts(layer), table.Stride(layer)});
  }
  return layers;
}

}  // namespace

// All of it, one acquisition's progress included, is guarded by `mutex_`,
// which is held for bookkeeping only: never while bytes are checked or decoded.
//
// No deadlock with few slots: Next() waits only when nothing is ready. Then
// what was delivered before is released, so every slot is free, evictable,
// queued or being read, and every read ends by making a slot ready, evictable
// or free. Guesses take slots only when no expert waits for one.
class ExpertCache::Impl {
 public:
  struct Parts {
    Options options;
    const ExpertStore* store;
    SlotTable table;
    // A slot for each read: what was read and, from decoded_at on, what became of it for
    // a tier that is not on the host. Null: reads go straight to their slots.
    std::unique_ptr<Tier> staging;
    size_t decoded_at;
    std::unique_ptr<EvictionPolicy> policy;
    std::unique_ptr<ExpertPredictor> predictor;  // may be null
    std::unique_ptr<Reader> reader;              // goes first, when its reads have ended
    int max_experts_per_layer;
  };

  explicit Impl(Parts parts)
      : parts_(std::move(parts)),
        slots_(parts_.table.num_slots()),
        evictable_([this](ExpertKey key) { return IsEvictable(key); }),
        demanded_(parts_.max_experts_per_layer),
        slot_of_read_(parts_.reader->depth()),
        retries_(parts_.reader->depth()),
        miss_ratio_(SlotsOf(*parts_.store, parts_.table)) {
    counters_.resident = std::vector<std::atomic<int>>(parts_.store->num_layers());
    counters_.capacity_bytes = parts_.table.budget();
    for (int id = parts_.reader->depth(); id-- > 0;) free_reads_.push_back(id);
    const size_t most = parts_.max_experts_per_layer;
    waiting_.reserve(most);
    ready_.reserve(most);
    delivered_.reserve(most);
    decoded_.reserve(most);
    of_decodes_.resize(most);
    guessed_.reserve(most);
    predicted_.reserve(most);
  }

  ~Impl() {
    assert(!acquiring_);
    parts_.reader->Stop();
    for (std::thread& thread : threads_) thread.join();
  }

  absl::Status StartThreads() {
    threads_.reserve(parts_.options.workers);
    try {
      for (int i = 0; i < parts_.options.workers; ++i) threads_.emplace_back([this] { Work(); });
    } catch (const std::system_error& error) {
      return absl::ResourceExhaustedError(fmt::format("no I/O thread: {}", error.what()));
    }
    return absl::OkStatus();
  }

  void Begin(const ExpertRequest& request) {
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
    HandOutSlots();
    StartReads();
    if (parts_.predictor != nullptr) Predict(request);
    miss_ratio_.OnRequest(request, hits, parts_.table.budget());  // while the disk reads
  }

  std::span<const AcquiredExpert> Next() {
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

  // Reads under way go on, wanted by no one.
  void End() {
    std::lock_guard lock(mutex_);
    acquiring_ = false;
    next_waiting_ = waiting_.size();
    while (!demanded_.empty()) Forget(demanded_.Pop());
    for (const int slot : slot_of_read_) slots_[slot].wanted = false;
    Release(&ready_);
    Release(&delivered_);
    Trim();
    StartReads();
  }

  void Prefetch(std::span<const ExpertGuess> guesses) {
    std::lock_guard lock(mutex_);
    Guess(guesses);
  }

  bool WantsGuesses() const {
    std::lock_guard lock(mutex_);
    return LeastChance() <= 1;
  }

  ExpertCacheStep EndStep(const StepCost& cost) {
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

  void Preload(std::span<const ExpertKey> pinned, std::span<const ExpertKey> popular) {
    std::lock_guard lock(mutex_);
    preload_.assign(pinned.begin(), pinned.end());
    preload_.insert(preload_.end(), popular.begin(), popular.end());
    next_preload_ = 0;
    pinned_preloads_ = pinned.size();
    StartReads();
  }

  void SetCapacity(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    parts_.table.set_budget(
        std::max({bytes, parts_.table.largest_slot(), parts_.options.least_bytes}));
    counters_.capacity_bytes = parts_.table.budget();
    Trim();
    HandOutSlots();
    StartReads();
  }

  ExpertCacheStats stats() const;

  LatencyHistogram DemandReads() const { return counters_.demand_latency.Read(); }

  std::vector<uint64_t> ResidentBytes() const {
    std::vector<uint64_t> bytes;
    for (size_t layer = 0; layer < counters_.resident.size(); ++layer) {
      bytes.push_back(counters_.resident[layer] * parts_.table.Stride(static_cast<int>(layer)));
    }
    return bytes;
  }

  Popularity ExportPopularity() const {
    std::lock_guard lock(mutex_);
    return parts_.policy->ExportPopularity();
  }

  std::vector<MissRatioPoint> MissRatioCurve() const {
    std::lock_guard lock(mutex_);
    return miss_ratio_.Curve();
  }

  const Parts& parts() const { return parts_; }

 private:
  // Now.
  float LeastChance() const { return LeastChance(prompt_ ? kLikely : governor_.least_chance()); }

  // With one that is `governed`, as far as anything is to be guessed.
  float LeastChance(float governed) const {
    if (parts_.options.speculative_reads == 0 || parts_.table.holds_all()) {
      return PrefetchGovernor::kNever;
    }
    return parts_.options.govern_prefetch ? governed : kLikely;
  }

  void Predict(const ExpertRequest& request) {
    parts_.predictor->OnRequest(request);
    predicted_.clear();
    if (LeastChance() <= 1) parts_.predictor->Predict(1, &predicted_);
    Guess(predicted_);
  }

  void Guess(std::span<const ExpertGuess> guesses) {
    guessed_.clear();
    const float least_chance = LeastChance();
    for (const ExpertGuess& guess : guesses) {
      if (guessed_.size() == guessed_.capacity()) break;
      if (guess.chance < least_chance) continue;
      if (parts_.table.Find(guess.key) == SlotTable::kNone) guessed_.push_back(guess.key);
    }
    StartReads();
  }

  // Beside decodes, a prompt passes: what is worth keeping is what they use.
  void TellPolicy(const ExpertRequest& request) {
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

  bool IsEvictable(ExpertKey key) const {
    const int slot = parts_.table.Find(key);
    return slot != SlotTable::kNone && slots_[slot].state == SlotState::kResident;
  }

  void Deliver(int slot) {
    slots_[slot].state = SlotState::kPinned;
    ++counters_.pinned_slots;
    ready_.push_back({parts_.table.key(slot).expert, parts_.table.memory(slot).data(), {}});
  }

  void Want(ExpertKey key) {
    const int slot = parts_.table.Find(key);
    if (slot == SlotTable::kNone) {
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
  void DropStaleGuesses() {
    std::erase_if(guessed_, [this](ExpertKey key) { return key.layer == layer_; });
  }

  void Release(std::vector<AcquiredExpert>* experts) {
    for (const AcquiredExpert& expert : *experts) {
      if (expert.data == nullptr) continue;
      slots_[parts_.table.Find({layer_, expert.expert})].state = SlotState::kResident;
      --counters_.pinned_slots;
    }
    experts->clear();
    Trim();
  }

  void Forget(int slot) {
    parts_.policy->OnErase(parts_.table.key(slot));
    slots_[slot] = {};
    parts_.table.Free(slot);
  }

  void Evict(ExpertKey key) {
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
  void Trim() {
    ExpertKey victim;
    while (parts_.table.over_budget() && parts_.policy->PickVictim(evictable_, &victim)) {
      Evict(victim);
    }
  }

  // A queued slot for `key`, by eviction if need be; kNone when all are in use, or
  // `if_worth` it and it is not worth the victim.
  int TakeSlot(ExpertKey key, bool if_worth) {
    for (;;) {
      if (const std::optional<int> slot = parts_.table.Take(key)) {
        slots_[*slot] = {.state = SlotState::kQueued};
        parts_.policy->OnInsert(key);
        return *slot;
      }
      ExpertKey victim;
      if (parts_.policy->PickVictim(evictable_, &victim)) {
        if (if_worth && !parts_.policy->Admits(key, victim)) return SlotTable::kNone;
        Evict(victim);
      } else {
        return SlotTable::kNone;
      }
    }
  }

  // Whether the acquisition is a prompt's and has slots enough to keep the disk
  // busy: the rest can wait for those, and what others use stays.
  bool PromptHasSlots() const {
    if (!prompt_) return false;
    const size_t hits = asked_ - waiting_.size();
    const size_t held = next_waiting_ - (released_ - std::min(released_, hits));
    return held >= kPromptSlotsPerRead * slot_of_read_.size();
  }

  // Queues reads for the experts that wait, in order, as far as slots go.
  void HandOutSlots() {
    for (; next_waiting_ < waiting_.size(); ++next_waiting_) {
      const int slot = TakeSlot({layer_, waiting_[next_waiting_]}, PromptHasSlots());
      if (slot == SlotTable::kNone) return;
      MarkWanted(slot);
      demanded_.Push(slot);
    }
  }

  void MarkWanted(int slot) {
    slots_[slot].wanted = true;
    slots_[slot].wanted_at = Clock::now();
  }

  // A slot for the next expert of Preload(); kNone: not now, or never again.
  int TakePreload() {
    if (next_waiting_ < waiting_.size() || preloading_ == kPreloadReads) return SlotTable::kNone;
    for (; next_preload_ < preload_.size(); ++next_preload_) {
      const ExpertKey key = preload_[next_preload_];
      if (parts_.table.Find(key) != SlotTable::kNone) continue;
      int slot = SlotTable::kNone;
      if (next_preload_ < pinned_preloads_) {
        slot = TakeSlot(key, /*if_worth=*/true);
        if (slot == SlotTable::kNone) return slot;
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
    return SlotTable::kNone;
  }

  // Begins reads in their order: guesses when no one waits, and only so many.
  void StartReads() {
    while (!free_reads_.empty()) {
      int slot = SlotTable::kNone;
      if (!demanded_.empty()) {
        slot = demanded_.Pop();
      } else if (next_waiting_ == waiting_.size()) {
        slot = TakeGuess();
        if (slot == SlotTable::kNone && guessed_.empty()) slot = TakePreload();
      }
      if (slot == SlotTable::kNone) break;
      StartRead(slot);
    }
    counters_.reads_in_flight = static_cast<int>(slot_of_read_.size() - free_reads_.size());
    counters_.reads_queued = static_cast<int>(demanded_.size() + guessed_.size());
    counters_.speculative_in_flight = reading_guesses_;
    counters_.speculative_queued = static_cast<int>(guessed_.size());
    counters_.preloads_left = static_cast<int>(preload_.size() - next_preload_);
    counters_.preloads_in_flight = preloading_;
  }

  // A slot for the likeliest guess that is worth one; kNone when none is, or
  // enough are being read.
  int TakeGuess() {
    while (!guessed_.empty() && reading_guesses_ < parts_.options.speculative_reads) {
      const ExpertKey key = guessed_.front();
      guessed_.erase(guessed_.begin());
      if (parts_.table.Find(key) != SlotTable::kNone) continue;
      const int slot = TakeSlot(key, /*if_worth=*/true);
      if (slot == SlotTable::kNone) continue;
      slots_[slot].speculative = true;
      ++reading_guesses_;
      return slot;
    }
    return SlotTable::kNone;
  }

  void StartRead(int slot) {
    const int id = free_reads_.back();
    free_reads_.pop_back();
    slot_of_read_[id] = slot;
    retries_[id] = 0;
    slots_[slot].state = SlotState::kReading;
    const uint64_t bytes = StoredBytes(*parts_.store, parts_.table.key(slot));
    if (slots_[slot].speculative) {
      ++counters_.speculative_reads;
      counters_.speculative_bytes += bytes;
    } else if (slots_[slot].preload) {
      ++counters_.preload_reads;
      counters_.preload_bytes += bytes;
    } else {
      CountDemand(slot);
    }
    Read(id);
  }

  void CountDemand(int slot) {
    ++counters_.demand_reads;
    counters_.demand_bytes += StoredBytes(*parts_.store, parts_.table.key(slot));
  }

  void Read(int id) {
    const int slot = slot_of_read_[id];
    const std::span<const Extent> extents = parts_.store->extents(parts_.table.key(slot));
    parts_.reader->Start(id, extents, ReadTarget(id, slot));
  }

  // Begins a read that failed again, if it is worth another attempt.
  bool Retry(int id, int most) {
    if (!slots_[slot_of_read_[id]].wanted || retries_[id] >= most) return false;
    ++retries_[id];
    ++counters_.read_retries;
    CountDemand(slot_of_read_[id]);
    Read(id);
    return true;
  }

  std::span<std::byte> ReadTarget(int id, int slot) const {
    const bool staged =
        !parts_.table.tier().on_host() || parts_.store->needs_decode(parts_.table.key(slot).layer);
    return staged ? parts_.staging->slot(id) : parts_.table.memory(slot);
  }

  void Work() {
    Reader::Done done;
    while (parts_.reader->Wait(&done)) {
      int slot = 0;
      ExpertKey key;
      {
        std::lock_guard lock(mutex_);
        slot = slot_of_read_[done.id];
        key = parts_.table.key(slot);
      }
      int retries = 0;
      if (done.status.ok()) {
        done.status = Fill(done.id, slot, key);
        if (absl::IsDataLoss(done.status)) retries = kRetriesAfterDamage;
      } else {
        if (absl::IsUnavailable(done.status)) retries = kRetriesAfterError;
        done.status = NameExpert(done.status, key);
      }
      std::lock_guard lock(mutex_);
      if (!done.status.ok() && Retry(done.id, retries)) continue;
      Finish(done.id, std::move(done.status));
    }
  }

  absl::Status Fill(int id, int slot, ExpertKey key) const {
    const std::span<std::byte> stored = ReadTarget(id, slot).first(StoredBytes(*parts_.store, key));
    if (absl::Status status = parts_.store->Check(key, stored); !status.ok()) return status;
    const bool decode = parts_.store->needs_decode(key.layer);
    const size_t slot_bytes = parts_.store->slot_bytes(key.layer);
    Tier& tier = parts_.table.tier();
    if (tier.on_host()) {
      if (!decode) return absl::OkStatus();
      return parts_.store->Decode(key, stored, parts_.table.memory(slot).first(slot_bytes));
    }
    std::span<std::byte> contents = stored;
    if (decode) {
      contents = parts_.staging->slot(id).subspan(parts_.decoded_at, slot_bytes);
      if (absl::Status status = parts_.store->Decode(key, stored, contents); !status.ok()) {
        return status;
      }
    }
    return NameExpert(tier.Fill(slot, contents), key);
  }

  void Finish(int id, absl::Status status) {
    const int slot = slot_of_read_[id];
    free_reads_.push_back(id);
    SlotUse& use = slots_[slot];
    reading_guesses_ -= use.speculative;
    preloading_ -= std::exchange(use.preload, false);
    if (status.ok()) {
      use.state = SlotState::kResident;
      ++counters_.resident[parts_.table.key(slot).layer];
      if (std::exchange(use.wanted, false)) {
        counters_.demand_latency.Add(NanosecondsSince(use.wanted_at));
        Deliver(slot);
      }
    } else {
      ++counters_.read_errors;
      if (use.wanted) ready_.push_back({parts_.table.key(slot).expert, nullptr, std::move(status)});
      Forget(slot);
    }
    Trim();
    HandOutSlots();
    StartReads();
    progress_.notify_one();
  }

  Parts parts_;
  CacheCounters counters_;
  std::vector<std::thread> threads_;

  mutable std::mutex mutex_;
  std::condition_variable progress_;  // the acquirer's: a read ended

  std::vector<SlotUse> slots_;
  const std::function<bool(ExpertKey)> evictable_;

  // The acquisition, if there is one. The vectors' capacity is the most that
  // any acquisition needs.
  bool acquiring_ = false;
  int layer_ = 0;
  size_t asked_ = 0, undelivered_ = 0;
  size_t released_ = 0;
  std::vector<int> decoded_;      // that its decodes chose
  std::vector<bool> of_decodes_;  // [experts], all false between requests
  std::vector<int> waiting_;      // missing experts; from next_waiting_ on without a slot
  size_t next_waiting_ = 0;
  std::vector<AcquiredExpert> ready_;
  std::vector<AcquiredExpert> delivered_;  // pinned until the following Next()

  // Slots whose reads have not begun, guesses without one; and what reads are
  // under way.
  IdQueue demanded_;
  std::vector<ExpertKey> guessed_;
  std::vector<int> slot_of_read_;  // by the reader's number
  std::vector<int> retries_;       // likewise
  std::vector<int> free_reads_;
  int reading_guesses_ = 0;

  MissRatioEstimator miss_ratio_;
  PrefetchGovernor governor_;
  bool prompt_ = false;  // the last request was also of rows of a prompt
  uint64_t misses_before_ = 0, read_bytes_before_ = 0;  // the last step's end
  int64_t stall_ns_before_ = 0;
  std::vector<ExpertGuess> predicted_;
  // Of Preload(): those before pinned_preloads_ are pinned.
  std::vector<ExpertKey> preload_;
  size_t next_preload_ = 0, pinned_preloads_ = 0;
  int preloading_ = 0;  // reads under way
};

ExpertCacheStats ExpertCache::Impl::stats() const {
  ExpertCacheStats stats = counters_.Read();
  for (const uint64_t bytes : ResidentBytes()) stats.resident_bytes += bytes;
  stats.model_bytes = parts_.table.all_bytes();
  stats.locked = parts_.table.locked();
  return stats;
}

absl::StatusOr<std::unique_ptr<ExpertCache>> ExpertCache::Create(
    const Options& options, const ExpertStore* store, std::unique_ptr<Reader> reader,
    std::unique_ptr<EvictionPolicy> policy, std::unique_ptr<ExpertPredictor> predictor) {
  if (options.workers < 1) {
    return absl::InvalidArgumentError(
        fmt::format("an expert cache with {} workers, must be at least 1", options.workers));
  }
  absl::StatusOr<StoreSizes> sizes = MeasureStore(*store);
  if (!sizes.ok()) return std::move(sizes).status();
  if (options.capacity_bytes < SlotStride(sizes->slot_bytes)) {
    return absl::InvalidArgumentError(
        fmt::format("an expert cache of {} bytes holds no expert: one takes {} bytes",
                    options.capacity_bytes, SlotStride(sizes->slot_bytes)));
  }
  absl::StatusOr<SlotTable> table =
      SlotTable::Create(*store, options.capacity_bytes, options.new_tier);
  if (!table.ok()) return std::move(table).status();
  std::unique_ptr<Tier> staging;
  const bool elsewhere = !table->tier().on_host();
  const size_t decoded_at = SlotStride(std::max(sizes->stored_bytes, sizes->slot_bytes));
  if (sizes->stored_bytes > 0 || elsewhere) {
    const SlotClass buffers{elsewhere ? decoded_at + sizes->slot_bytes : sizes->stored_bytes,
                            reader->depth()};
    auto tier = NewDramTier({&buffers, 1});
    if (!tier.ok()) return std::move(tier).status();
    staging = *std::move(tier);
  }
  auto impl = std::make_unique<Impl>(Impl::Parts{
      options, store, *std::move(table), std::move(staging), decoded_at, std::move(policy),
      std::move(predictor), std::move(reader), sizes->max_experts_per_layer});
  if (absl::Status status = impl->StartThreads(); !status.ok()) return status;
  return std::unique_ptr<ExpertCache>(new ExpertCache(std::move(impl)));
}

ExpertCache::ExpertCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ExpertCache::~ExpertCache() = default;

ExpertCache::Acquisition ExpertCache::Acquire(const ExpertRequest& request) {
  impl_->Begin(request);
  return Acquisition(impl_.get());
}

void ExpertCache::Prefetch(std::span<const ExpertGuess> guesses) { impl_->Prefetch(guesses); }
bool ExpertCache::WantsGuesses() const { return impl_->WantsGuesses(); }
ExpertCacheStep ExpertCache::EndStep(const StepCost& cost) { return impl_->EndStep(cost); }
void ExpertCache::Preload(std::span<const ExpertKey> pinned, std::span<const ExpertKey> popular) {
  impl_->Preload(pinned, popular);
}
void ExpertCache::SetCapacity(uint64_t bytes) { impl_->SetCapacity(bytes); }
ExpertCacheStats ExpertCache::stats() const { return impl_->stats(); }
LatencyHistogram ExpertCache::DemandReads() const { return impl_->DemandReads(); }
std::vector<uint64_t> ExpertCache::ResidentBytes() const { return impl_->ResidentBytes(); }
Popularity ExpertCache::ExportPopularity() const { return impl_->ExportPopularity(); }
std::vector<MissRatioPoint> ExpertCache::MissRatioCurve() const { return impl_->MissRatioCurve(); }
std::string_view ExpertCache::reader_name() const { return impl_->parts().reader->name(); }
bool ExpertCache::reads_directly() const { return impl_->parts().reader->direct(); }
std::string_view ExpertCache::policy_name() const { return impl_->parts().policy->name(); }

ExpertCache::Acquisition::Acquisition(Acquisition&& other) noexcept
    : impl_(std::exchange(other.impl_, nullptr)) {}

ExpertCache::Acquisition::~Acquisition() {
  if (impl_ != nullptr) impl_->End();
}

std::span<const AcquiredExpert> ExpertCache::Acquisition::Next() { return impl_->Next(); }

}  // namespace hostler
