// The expert cache: keeps the experts in use in a tier's slots and reads the
// missing ones from disk while resident ones are being computed.
//
//   ExpertCache::Acquisition want = cache->Acquire(layer, experts);
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

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/expert_store.h"
#include "cache/policy.h"
#include "cache/reader.h"
#include "cache/tier.h"

namespace hostler {

struct AcquiredExpert {
  int expert = 0;
  // slot_bytes(layer) bytes; null when the expert could not be read.
  const std::byte* data = nullptr;
  absl::Status status;  // why `data` is null
};

struct ExpertCacheStats {
  uint64_t hits = 0;    // experts resident when asked for
  uint64_t misses = 0;  // experts that had to be read
  uint64_t evictions = 0;
  uint64_t read_bytes = 0;
  uint64_t read_errors = 0;
  double stall_seconds = 0;     // time Next() waited with nothing to compute
  uint64_t resident_bytes = 0;  // slots that hold an expert, in bytes
  uint64_t capacity_bytes = 0;  // all slots
  uint64_t model_bytes = 0;     // all experts of the model
  int pinned_slots = 0;         // 0 whenever no acquisition is alive
};

class ExpertCache {
  class Impl;

 public:
  struct Options {
    uint64_t capacity_bytes = 0;  // rounded down to whole slots, at least one
    int io_threads = 4;           // reads in flight
  };

  // `store` must outlive the cache. Allocates all slots and starts the I/O
  // threads. Errors: InvalidArgument when the capacity is below one slot,
  // ResourceExhausted when the memory cannot be had.
  static absl::StatusOr<std::unique_ptr<ExpertCache>> Create(
      const Options& options, const ExpertStore* store, std::unique_ptr<Reader> reader,
      std::unique_ptr<EvictionPolicy> policy);
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

  // Starts to acquire request.experts of a layer; reads of missing ones
  // begin at once. Never fails: a failed read shows in its AcquiredExpert.
  // One acquisition at a time (the engine loop's).
  // REQUIRES: the previous acquisition is destroyed.
  Acquisition Acquire(const ExpertRequest& request);
  Acquisition Acquire(int layer, std::span<const int> experts) {
    return Acquire({.layer = layer, .experts = experts, .offsets = {}, .chosen = {}});
  }

  // Any thread.
  ExpertCacheStats stats() const;

 private:
  explicit ExpertCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hostler
