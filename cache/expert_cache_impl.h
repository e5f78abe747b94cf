// What an ExpertCache is made of.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "cache/cache_counters.h"
#include "cache/expert_cache.h"
#include "cache/expert_source.h"
#include "cache/host_level.h"
#include "cache/hybrid.h"
#include "cache/id_queue.h"
#include "cache/miss_ratio.h"
#include "cache/prefetch_governor.h"
#include "cache/slot_table.h"

namespace hostler {

// All of it, one acquisition's progress included, is guarded by `mutex_`, which is held
// for bookkeeping only: never while bytes are checked, decoded or copied.
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
    std::unique_ptr<EvictionPolicy> policy;
    std::unique_ptr<ExpertPredictor> predictor;  // may be null
    std::unique_ptr<ExpertSource> source;        // goes before the table, whose slots it fills
    HostLevel* host;                             // the source, where it is one; else null
    const Reader* reader;                        // of the source
    int max_experts_per_layer;
  };

  explicit Impl(Parts parts);
  ~Impl();
  absl::Status StartThreads(int workers);

  void Begin(const ExpertRequest& request);
  std::span<const AcquiredExpert> Next();
  // Reads under way go on, wanted by no one.
  void End();

  void Prefetch(std::span<const ExpertGuess> guesses);
  bool WantsGuesses() const;
  ExpertCacheStep EndStep(const StepCost& cost);
  void Preload(std::span<const ExpertKey> pinned, std::span<const ExpertKey> popular);
  void OnHostWork(int layer, int rows, double seconds);
  void SetCapacity(uint64_t bytes);

  ExpertCacheStats stats() const;
  LatencyHistogram DemandReads() const { return counters_.demand_latency.Read(); }
  std::vector<uint64_t> ResidentBytes() const;
  Popularity ExportPopularity() const;
  std::vector<MissRatioPoint> MissRatioCurve() const;
  const Parts& parts() const { return parts_; }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int kNone = SlotTable::kNone;
  // Experts that wait to be copied in after the host has computed them.
  static constexpr size_t kMostPromotions = 8;
  static constexpr int kNotWorth = -2;  // a slot would be to be had

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
    int read = 0;              // its number, while under way
    Clock::time_point wanted_at = {};
  };
  // What the source is asked for, by its number.
  struct ReadUse {
    int slot = 0;  // or ExpertSource::kHost
    int retries = 0;
    // Of those to the host:
    ExpertKey key;
    bool wanted = false;
    Clock::time_point wanted_at = {};
  };

  static int64_t NanosecondsSince(Clock::time_point start) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
  }

  // Prefetch: the least chance of a guess, now; and with one that is `governed`, as far
  // as anything is to be guessed.
  float LeastChance() const;
  float LeastChance(float governed) const;
  void Predict(const ExpertRequest& request);
  void Guess(std::span<const ExpertGuess> guesses);
  void DropStaleGuesses();

  // The acquisition.
  void TellPolicy(const ExpertRequest& request);
  void Want(ExpertKey key);
  void MarkWanted(int slot);
  void Deliver(int slot);
  void Release(std::vector<AcquiredExpert>* experts);
  bool PromptHasSlots() const;
  void HandOutSlots();

  // Hybrid compute.
  void ChooseForHost(const ExpertRequest& request);
  void SendToHost(int expert);
  bool HostWillDo(int expert) const;

  // Slots.
  bool IsEvictable(ExpertKey key) const;
  void Forget(int slot);
  void Evict(ExpertKey key);
  void Trim();
  int TakeSlot(ExpertKey key, bool if_worth);

  // Reads.
  int TakeGuess();
  int TakePreload();
  int TakePromotion();
  void StartReads();
  int TakeRead();
  void StartRead(int slot);
  void StartHostRead(int expert);
  void Read(int id);
  bool Retry(int id, int most);
  void Work();
  void Finish(ExpertSource::Done* done);
  void FinishHostRead(ExpertSource::Done* done);

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

  // What of it the host computes.
  HybridPlanner hybrid_;
  std::vector<int> rows_;  // [experts] that chose each
  std::vector<HybridPlanner::Missing> missing_;
  IdQueue host_waiting_;               // experts to be read for the host
  std::vector<ExpertKey> promotions_;  // computed there, to be copied in when nobody waits

  // Slots whose reads have not begun, guesses without one; and what reads are
  // under way.
  IdQueue demanded_;
  std::vector<ExpertKey> guessed_;
  std::vector<ReadUse> reads_;
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

}  // namespace hostler
