// Experts in the host's memory beneath a tier that is not on the host: HBM <- DRAM <- disk.
// What the tier lacks is copied up from here, or read from disk into a slot here first.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "cache/expert_source.h"
#include "cache/expert_store.h"
#include "cache/id_queue.h"
#include "cache/policy.h"
#include "cache/slot_table.h"

namespace hostler {

struct HostLevelStats {
  uint64_t hits = 0;    // experts that were here, or on their way, when asked for
  uint64_t misses = 0;  // that had to be read
  uint64_t evictions = 0;
  uint64_t resident_bytes = 0, capacity_bytes = 0;
};

// Slots with a policy of their own, which is told of what the tier above lacks. An
// expert that is held (copied, or computed with) stays. Any thread.
//
// Nobody waits here for a slot for ever: holders are copies, which end, and what the
// tier's owner has delivered, which it releases before it waits.
class HostLevel : public ExpertSource {
 public:
  // `disk` fills the slots of `table`; `above` is the tier that is asked for. Both and
  // `store` must outlive it. `depth` experts may be asked for at a time.
  HostLevel(const ExpertStore* store, SlotTable table, std::unique_ptr<EvictionPolicy> policy,
            Tier* above, int depth);
  ~HostLevel() override;

  // Begins with the source that was made for table().tier(), and `workers` threads that
  // wait for it. Errors: ResourceExhausted.
  absl::Status Serve(std::unique_ptr<ExpertSource> disk, int workers);
  const SlotTable& table() const { return table_; }

  // A step asks the tier above for these of a layer, and it has them not.
  void OnRequest(int layer, std::span<const int> missing);
  // Where `key` is, which stays until Release(); null: not here.
  const std::byte* Hold(ExpertKey key);
  void Release(ExpertKey key);
  HostLevelStats stats() const;

  int depth() const override { return static_cast<int>(asks_.size()); }
  bool Start(int id, ExpertKey key, int slot, bool demanded) override;
  void Demand(int id) override { asks_[id].demanded = true; }
  bool Wait(Done* done) override;
  void Stop() override;

 private:
  struct Use {
    bool resident = false;
    int holders = 0;
  };
  struct Ask {
    ExpertKey key;
    int slot = kHost;  // above
    int here = SlotTable::kNone;
    bool coming = false;  // `here` is being read
    std::atomic<bool> demanded{false};
    absl::Status status;
    int retries = 0;
  };

  // All below under mutex_.
  void Read();
  void Join(int id, int slot);
  void Fail(int id, absl::Status status, int retries);
  int TakeSlot(ExpertKey key);
  void Forget(int slot);
  // Takes one out, of those that someone waits for if there are any.
  int TakeFirst(std::vector<int>* ids) const;

  void Work();

  const ExpertStore& store_;
  Tier& above_;
  mutable std::mutex mutex_;
  std::condition_variable ready_or_stopped_;
  SlotTable table_;
  std::unique_ptr<EvictionPolicy> policy_;
  std::vector<Use> uses_;  // [slots]
  const std::function<bool(ExpertKey)> evictable_;
  std::vector<Ask> asks_;
  std::vector<int> waiting_;  // asks without a slot here
  std::vector<int> ready_;    // asks that Wait() has not taken
  std::vector<int> slot_of_read_, free_reads_;
  bool stopped_ = false;
  HostLevelStats stats_;
  std::vector<std::thread> threads_;
  std::unique_ptr<ExpertSource> disk_;  // goes first: it fills the table's slots
};

}  // namespace hostler
