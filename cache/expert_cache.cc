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

namespace hostler {
namespace {

constexpr int kNoSlot = -1;

enum class SlotState : uint8_t {
  kFree,
  kReading,   // its read is queued or in flight
  kResident,  // may be evicted
  kPinned,    // resident, and the acquisition delivers or has delivered it
};

struct Slot {
  ExpertKey key;
  SlotState state = SlotState::kFree;
};

// What Create() learns from the store.
struct Sizes {
  size_t slot_bytes = 0;    // the largest layer's expert
  size_t stored_bytes = 0;  // the largest expert that needs decoding, else 0
  uint64_t model_bytes = 0;
  int num_experts = 0;            // of all layers
  int max_experts_per_layer = 0;  // most that one acquisition asks for
};

uint64_t StoredBytes(const ExpertStore& store, ExpertKey key) {
  uint64_t bytes = 0;
  for (const Extent& extent : store.extents(key)) bytes += extent.bytes;
  return bytes;
}

absl::StatusOr<Sizes> MeasureStore(const ExpertStore& store) {
  Sizes sizes;
  for (int layer = 0; layer < store.num_layers(); ++layer) {
    const size_t slot_bytes = store.slot_bytes(layer);
    const int num_experts = store.num_experts(layer);
    sizes.slot_bytes = std::max(sizes.slot_bytes, slot_bytes);
    sizes.model_bytes += uint64_t{slot_bytes} * num_experts;
    sizes.num_experts += num_experts;
    sizes.max_experts_per_layer = std::max(sizes.max_experts_per_layer, num_experts);
    for (int expert = 0; expert < num_experts; ++expert) {
      const uint64_t stored_bytes = StoredBytes(store, {layer, expert});
      if (store.needs_decode(layer)) {
        sizes.stored_bytes = std::max<size_t>(sizes.stored_bytes, stored_bytes);
      } else if (stored_bytes != slot_bytes) {
        return absl::InvalidArgumentError(
            fmt::format("layer {} expert {}: {} bytes are stored, but its slot takes {}", layer,
                        expert, stored_bytes, slot_bytes));
      }
    }
  }
  if (sizes.num_experts == 0 || sizes.slot_bytes == 0) {
    return absl::InvalidArgumentError("the model has no experts");
  }
  return sizes;
}

// Written under the cache's lock, read by stats() without it.
struct Counters {
  std::atomic<uint64_t> hits{0};
  std::atomic<uint64_t> misses{0};
  std::atomic<uint64_t> evictions{0};
  std::atomic<uint64_t> read_bytes{0};
  std::atomic<uint64_t> read_errors{0};
  std::atomic<int64_t> stall_ns{0};
  std::atomic<int> resident_slots{0};  // pinned ones included
  std::atomic<int> pinned_slots{0};
};

}  // namespace

// All of it, one acquisition's progress included, is guarded by `mutex_`,
// which is held for bookkeeping only: never while bytes are read or decoded.
//
// No deadlock with few slots: Next() waits only when nothing is ready. Then
// what was delivered before is released, so every slot is free, evictable or
// being read; if experts are waiting, at least one of them gets a slot, and
// every read ends by making an expert ready.
class ExpertCache::Impl {
 public:
  struct Parts {
    const ExpertStore* store;
    std::unique_ptr<Reader> reader;
    std::unique_ptr<EvictionPolicy> policy;
    std::unique_ptr<Tier> tier;
    std::unique_ptr<Tier> staging;  // a slot for each I/O thread; null: nothing to decode
    Sizes sizes;
  };

  explicit Impl(Parts parts)
      : parts_(std::move(parts)),
        slots_(parts_.tier->num_slots()),
        evictable_([this](ExpertKey key) { return IsEvictable(key); }) {
    for (int layer = 0; layer < parts_.store->num_layers(); ++layer) {
      slot_of_.emplace_back(parts_.store->num_experts(layer), kNoSlot);
    }
    for (int slot = parts_.tier->num_slots(); slot-- > 0;) free_.push_back(slot);
    const size_t most = parts_.sizes.max_experts_per_layer;
    waiting_.reserve(most);
    read_queue_.reserve(most);
    ready_.reserve(most);
    delivered_.reserve(most);
  }

  ~Impl() {
    assert(!acquiring_);
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  absl::Status StartThreads(int count) {
    threads_.reserve(count);
    try {
      for (int i = 0; i < count; ++i) threads_.emplace_back([this, i] { ReadLoop(i); });
    } catch (const std::system_error& error) {
      return absl::ResourceExhaustedError(fmt::format("no I/O thread: {}", error.what()));
    }
    return absl::OkStatus();
  }

  void Begin(const ExpertRequest& request) {
    const int layer = request.layer;
    const std::span<const int> experts = request.experts;
    std::lock_guard lock(mutex_);
    assert(!acquiring_ && in_flight_ == 0);
    acquiring_ = true;
    layer_ = layer;
    undelivered_ = experts.size();
    next_waiting_ = next_read_ = 0;
    waiting_.clear();
    read_queue_.clear();
    parts_.policy->OnRequest(request);
    // Every hit is pinned before the first victim is chosen.
    for (const int expert : experts) {
      const int slot = slot_of_[layer][expert];
      if (slot == kNoSlot) {
        waiting_.push_back(expert);
      } else {
        Pin(slot);
        ready_.push_back({expert, parts_.tier->slot(slot).data(), absl::OkStatus()});
      }
    }
    counters_.hits += ready_.size();
    counters_.misses += waiting_.size();
    HandOutSlots();
  }

  std::span<const AcquiredExpert> Next() {
    std::unique_lock lock(mutex_);
    Release(&delivered_);
    HandOutSlots();
    if (undelivered_ == 0) return {};
    if (ready_.empty()) {
      const auto start = std::chrono::steady_clock::now();
      progress_.wait(lock, [this] { return !ready_.empty(); });
      counters_.stall_ns += std::chrono::duration_cast<std::chrono::nanoseconds>(
                                std::chrono::steady_clock::now() - start)
                                .count();
    }
    std::swap(ready_, delivered_);
    undelivered_ -= delivered_.size();
    return delivered_;
  }

  void End() {
    std::unique_lock lock(mutex_);
    acquiring_ = false;  // reads that end from now on pin nothing
    next_waiting_ = waiting_.size();
    while (next_read_ < read_queue_.size()) Free(read_queue_[next_read_++]);
    Release(&ready_);
    Release(&delivered_);
    progress_.wait(lock, [this] { return in_flight_ == 0; });
  }

  ExpertCacheStats stats() const {
    ExpertCacheStats stats;
    stats.hits = counters_.hits;
    stats.misses = counters_.misses;
    stats.evictions = counters_.evictions;
    stats.read_bytes = counters_.read_bytes;
    stats.read_errors = counters_.read_errors;
    stats.stall_seconds = static_cast<double>(counters_.stall_ns) * 1e-9;
    stats.resident_bytes = parts_.sizes.slot_bytes * counters_.resident_slots;
    stats.capacity_bytes = parts_.sizes.slot_bytes * slots_.size();
    stats.model_bytes = parts_.sizes.model_bytes;
    stats.pinned_slots = counters_.pinned_slots;
    return stats;
  }

 private:
  bool IsEvictable(ExpertKey key) const {
    const int slot = slot_of_[key.layer][key.expert];
    return slot != kNoSlot && slots_[slot].state == SlotState::kResident;
  }

  void Pin(int slot) {
    slots_[slot].state = SlotState::kPinned;
    ++counters_.pinned_slots;
  }

  void Release(std::vector<AcquiredExpert>* experts) {
    for (const AcquiredExpert& expert : *experts) {
      if (expert.data == nullptr) continue;
      slots_[slot_of_[layer_][expert.expert]].state = SlotState::kResident;
      --counters_.pinned_slots;
    }
    experts->clear();
  }

  void Forget(int slot) {
    const ExpertKey key = slots_[slot].key;
    slot_of_[key.layer][key.expert] = kNoSlot;
    slots_[slot].state = SlotState::kFree;
    parts_.policy->OnErase(key);
  }

  void Free(int slot) {
    Forget(slot);
    free_.push_back(slot);
  }

  // A slot with nothing in it, by eviction if need be; kNoSlot when all are in use.
  int TakeSlot() {
    if (!free_.empty()) {
      const int slot = free_.back();
      free_.pop_back();
      return slot;
    }
    ExpertKey victim;
    if (!parts_.policy->PickVictim(evictable_, &victim)) return kNoSlot;
    const int slot = slot_of_[victim.layer][victim.expert];
    Forget(slot);
    --counters_.resident_slots;
    ++counters_.evictions;
    return slot;
  }

  // Queues reads for the experts that wait, in order, as far as slots go.
  void HandOutSlots() {
    while (next_waiting_ < waiting_.size()) {
      const int slot = TakeSlot();
      if (slot == kNoSlot) return;
      const ExpertKey key{layer_, waiting_[next_waiting_++]};
      slots_[slot] = {key, SlotState::kReading};
      slot_of_[key.layer][key.expert] = slot;
      parts_.policy->OnInsert(key);
      read_queue_.push_back(slot);
      work_.notify_one();
    }
  }

  void ReadLoop(int thread) {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [this] { return stopping_ || next_read_ < read_queue_.size(); });
      if (stopping_) return;
      const int slot = read_queue_[next_read_++];
      const ExpertKey key = slots_[slot].key;
      ++in_flight_;
      lock.unlock();
      absl::Status status = Fill(thread, slot, key);
      lock.lock();
      --in_flight_;
      Finish(slot, std::move(status));
      progress_.notify_one();
    }
  }

  absl::Status Fill(int thread, int slot, ExpertKey key) {
    const std::span<std::byte> bytes =
        parts_.tier->slot(slot).first(parts_.store->slot_bytes(key.layer));
    const bool decode = parts_.store->needs_decode(key.layer);
    const std::span<std::byte> target = decode ? parts_.staging->slot(thread) : bytes;
    size_t filled = 0;
    for (const Extent& extent : parts_.store->extents(key)) {
      absl::Status status = parts_.reader->Read(extent, target.subspan(filled, extent.bytes));
      if (!status.ok()) return status;
      filled += extent.bytes;
    }
    counters_.read_bytes += filled;
    if (absl::Status status = parts_.store->Check(key, target.first(filled)); !status.ok()) {
      return status;
    }
    return decode ? parts_.store->Decode(key, target.first(filled), bytes) : absl::OkStatus();
  }

  void Finish(int slot, absl::Status status) {
    const int expert = slots_[slot].key.expert;
    if (!status.ok()) {
      ++counters_.read_errors;
      Free(slot);
      if (!acquiring_) return;
      ready_.push_back({expert, nullptr, std::move(status)});
      HandOutSlots();
      return;
    }
    slots_[slot].state = SlotState::kResident;
    ++counters_.resident_slots;
    if (!acquiring_) return;
    Pin(slot);
    ready_.push_back({expert, parts_.tier->slot(slot).data(), absl::OkStatus()});
  }

  Parts parts_;
  Counters counters_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;
  std::condition_variable work_;      // the I/O threads': a read was queued
  std::condition_variable progress_;  // the acquirer's: a read ended
  bool stopping_ = false;

  std::vector<Slot> slots_;
  std::vector<std::vector<int>> slot_of_;  // [layer][expert], kNoSlot: not resident
  std::vector<int> free_;
  const std::function<bool(ExpertKey)> evictable_;

  // The acquisition, if there is one. The vectors' capacity is the most that
  // any acquisition needs.
  bool acquiring_ = false;
  int layer_ = 0;
  size_t undelivered_ = 0;
  std::vector<int> waiting_;  // missing experts; from next_waiting_ on without a slot
  size_t next_waiting_ = 0;
  std::vector<int> read_queue_;  // slots to fill; from next_read_ on not begun
  size_t next_read_ = 0;
  int in_flight_ = 0;
  std::vector<AcquiredExpert> ready_;
  std::vector<AcquiredExpert> delivered_;  // pinned until the following Next()
};

absl::StatusOr<std::unique_ptr<ExpertCache>> ExpertCache::Create(
    const Options& options, const ExpertStore* store, std::unique_ptr<Reader> reader,
    std::unique_ptr<EvictionPolicy> policy) {
  if (options.io_threads < 1) {
    return absl::InvalidArgumentError(
        fmt::format("io_threads is {}, must be at least 1", options.io_threads));
  }
  absl::StatusOr<Sizes> sizes = MeasureStore(*store);
  if (!sizes.ok()) return std::move(sizes).status();
  const uint64_t affordable = options.capacity_bytes / sizes->slot_bytes;
  if (affordable == 0) {
    return absl::InvalidArgumentError(
        fmt::format("an expert cache of {} bytes holds no expert: one takes {} bytes",
                    options.capacity_bytes, sizes->slot_bytes));
  }
  // More slots than experts would stay empty.
  const int num_slots = static_cast<int>(std::min<uint64_t>(affordable, sizes->num_experts));
  absl::StatusOr<std::unique_ptr<Tier>> tier = NewDramTier(num_slots, sizes->slot_bytes);
  if (!tier.ok()) return std::move(tier).status();
  std::unique_ptr<Tier> staging;
  if (sizes->stored_bytes > 0) {
    auto buffers = NewDramTier(options.io_threads, sizes->stored_bytes);
    if (!buffers.ok()) return std::move(buffers).status();
    staging = *std::move(buffers);
  }
  auto impl = std::make_unique<Impl>(Impl::Parts{store, std::move(reader), std::move(policy),
                                                 *std::move(tier), std::move(staging), *sizes});
  if (absl::Status status = impl->StartThreads(options.io_threads); !status.ok()) return status;
  return std::unique_ptr<ExpertCache>(new ExpertCache(std::move(impl)));
}

ExpertCache::ExpertCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ExpertCache::~ExpertCache() = default;

ExpertCache::Acquisition ExpertCache::Acquire(const ExpertRequest& request) {
  impl_->Begin(request);
  return Acquisition(impl_.get());
}

ExpertCacheStats ExpertCache::stats() const { return impl_->stats(); }

ExpertCache::Acquisition::Acquisition(Acquisition&& other) noexcept
    : impl_(std::exchange(other.impl_, nullptr)) {}

ExpertCache::Acquisition::~Acquisition() {
  if (impl_ != nullptr) impl_->End();
}

std::span<const AcquiredExpert> ExpertCache::Acquisition::Next() { return impl_->Next(); }

}  // namespace hostler
