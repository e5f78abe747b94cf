// The expert cache: keeps the experts in use in a tier's slots and reads the
// missing ones from disk while resident ones are being computed.
//
//   ExpertCache::Acquisition want = cache->Acquire(request);
//   for (;;) {
//     std::span<const AcquiredExpert> ready = want.Next();
//     if (ready.empty()) break;
//     ...compute them; the others are being read meanwhile...
//   }
//
// Each expert asked for is delivered exactly once, pinned until the following
// call of Next(). With fewer slots than experts asked for the acquisition
// proceeds in waves: slots that Next() releases take the experts still to be
// read. One free slot is enough to finish; more only make it faster.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/expert_store.h"
#include "cache/host_level.h"
#include "cache/hybrid.h"
#include "cache/latency.h"
#include "cache/miss_ratio.h"
#include "cache/policy.h"
#include "cache/predictor.h"
#include "cache/prefetch_governor.h"
#include "cache/reader.h"
#include "cache/tier.h"

namespace hostler {

struct AcquiredExpert {
  int expert = 0;
  // slot_bytes(layer) bytes in the tier's memory, or the host's; null when the expert could not be
  // read.
  const std::byte* data = nullptr;
  // It is in the host's memory beneath the tier, to be computed by the host.
  bool on_host = false;
  absl::Status status = {};  // why `data` is null
};

// Counters only grow, and so do the differences that are of a kind: hits without
// a guess's, reads without the speculative ones and Preload()'s.
struct ExpertCacheStats {
  uint64_t hits = 0;    // experts resident when asked for
  uint64_t misses = 0;  // experts that were not, late guesses included
  uint64_t evictions = 0;
  uint64_t read_errors = 0;   // experts not delivered
  uint64_t read_retries = 0;  // reads begun again after an error or a wrong checksum
  double stall_seconds = 0;   // time Next() waited with nothing to compute

  uint64_t reads = 0, read_bytes = 0;                     // all, those begun again too
  uint64_t speculative_reads = 0, speculative_bytes = 0;  // of them, on a guess
  // Of the guesses' reads: asked for while resident or under way; left or
  // failed without having been asked for.
  uint64_t speculative_hits = 0, speculative_late = 0, speculative_wasted = 0;
  uint64_t speculative_wasted_bytes = 0;
  uint64_t speculative_useful_bytes = 0;  // read or being read when asked for
  // Read by Preload(), neither demanded nor guessed.
  uint64_t preload_reads = 0, preload_bytes = 0;
  int preloads_left = 0;  // experts that it has still to look at
  int reads_in_flight = 0, reads_queued = 0;
  int speculative_in_flight = 0, speculative_queued = 0;  // of them
  int preloads_in_flight = 0;                             // likewise

  // Of a tier that is not on the host: what was copied to it, from a level of slots in
  // DRAM or, where there is none, from what was read.
  uint64_t copies = 0, copied_bytes = 0;
  uint64_t promotions = 0;                   // copies begun of what the host had computed
  uint64_t host_experts = 0, host_rows = 0;  // computed by the host: experts, their rows
  HostLevelStats host;                       // the level in DRAM; capacity 0: there is none
  bool on_device = false;                    // slots are not the host's memory

  uint64_t resident_bytes = 0;  // slots that hold an expert
  uint64_t capacity_bytes = 0;  // what slots may take
  uint64_t model_bytes = 0;     // all experts of the model
  // least_chance: what a guess's chance must be in a step without prompts.
  PrefetchGovernor::Report prefetch;
  int pinned_slots = 0;  // 0 whenever no acquisition is alive
  bool locked = false;   // slots cannot be swapped out
};

// What one step took of the cache.
struct ExpertCacheStep {
  uint64_t misses = 0;
  uint64_t read_bytes = 0;
  double stall_seconds = 0;
  uint64_t capacity_bytes = 0;  // at its end
};

class ExpertCache {
  class Impl;

 public:
  struct Options {
    uint64_t capacity_bytes = 0;
    int workers = 2;  // threads that check and decode what was read
    // Guesses' reads at the disk at once; 0: none.
    int speculative_reads = 2;
    // Guesses are read as long as they pay. Off: whenever they are likelier than
    // not to be right.
    bool govern_prefetch = true;
    // SetCapacity goes no lower: what pinned experts take, and some more.
    uint64_t least_bytes = 0;
    // The tier whose slots hold the experts.
    TierFactory new_tier = NewDramTier;

    // That tier, and those of new_host_tier, reserve their memory: slots are of one size
    // where little is lost so.
    bool one_slot_size = false;

    // Where that tier is not on the host: slots of `new_host_tier` for so many bytes lie
    // beneath it, with a policy of their own; 0: what is missing is read each time, through
    // buffers of `new_host_tier`. Its Fill takes what is in such a tier.
    uint64_t host_bytes = 0;
    TierFactory new_host_tier = NewDramTier;
    // With those: whether experts are computed there rather than copied.
    Hybrid hybrid = Hybrid::kOff;
  };

  // `store` must outlive the cache. With a `predictor` the cache guesses by
  // itself. `host_policy`: of the slots for host_bytes; null: LRU. Starts its threads. Errors:
  // InvalidArgument when the capacity is below one slot, ResourceExhausted when the memory cannot
  // be had.
  static absl::StatusOr<std::unique_ptr<ExpertCache>> Create(
      const Options& options, const ExpertStore* store, std::unique_ptr<Reader> reader,
      std::unique_ptr<EvictionPolicy> policy, std::unique_ptr<ExpertPredictor> predictor = nullptr,
      std::unique_ptr<EvictionPolicy> host_policy = nullptr);
  ~ExpertCache();

  class Acquisition {
   public:
    Acquisition(Acquisition&&) noexcept;
    Acquisition& operator=(Acquisition&&) = delete;
    // Releases everything; waits for this acquisition's reads in flight.
    ~Acquisition();

    // Releases what the last call returned, then waits until at least one
    // expert not yet delivered is ready (or has failed) and returns all that
    // are: resident ones first, then in the order their reads end. Empty when
    // everything was delivered. The span is valid until the next call.
    std::span<const AcquiredExpert> Next();

   private:
    friend class ExpertCache;
    explicit Acquisition(Impl* impl) : impl_(impl) {}
    Impl* impl_;  // null when moved from
  };

  // Starts to acquire request.experts (distinct); reads of missing ones begin
  // at once. Never fails: a failed read shows in its AcquiredExpert. One
  // acquisition at a time (the engine loop's).
  // REQUIRES: the previous acquisition is destroyed.
  Acquisition Acquire(const ExpertRequest& request);

  // Reads guesses that are likely enough and not resident, in their order, when
  // no one waits for the disk. They replace guesses made before, and are dropped
  // when their layer has said what it wants. The acquirer's thread, during an
  // acquisition or not.
  void Prefetch(std::span<const ExpertGuess> guesses);
  // Whether guesses would be read now, were they likely. For who would have to
  // work them out.
  bool WantsGuesses() const;

  // A step has ended: what the governor judges by. Returns what was counted
  // since the step before. The acquirer's thread.
  ExpertCacheStep EndStep(const StepCost& cost);

  // The host has computed an expert (AcquiredExpert::on_host) for so many rows. The
  // acquirer's thread.
  void OnHostWork(int layer, int rows, double seconds);

  // Fills the cache in the background, in order, while no one waits for the
  // disk: first `pinned`, for which others leave, then `popular` as far as
  // there is room. Any thread; what an earlier call has not done yet is dropped.
  void Preload(std::span<const ExpertKey> pinned, std::span<const ExpertKey> popular);

  // Any thread. Less: experts leave, those in use as soon as they are released.
  // At least one slot stays, and Options::least_bytes.
  void SetCapacity(uint64_t bytes);
  ExpertCacheStats stats() const;
  // From when a step first waited for a read (or its guess was wanted) until
  // the expert could be used. Failed reads are not in it.
  LatencyHistogram DemandReads() const;
  // Bytes resident of each layer.
  std::vector<uint64_t> ResidentBytes() const;
  Popularity ExportPopularity() const;
  // What share of decode's lookups would miss with other capacities, from the
  // lookups so far (cache/miss_ratio.h). Empty until a token was decoded.
  std::vector<MissRatioPoint> MissRatioCurve() const;
  std::string_view reader_name() const;
  bool reads_directly() const;  // past the page cache
  std::string_view policy_name() const;

 private:
  explicit ExpertCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hostler
