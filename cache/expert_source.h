// Where an ExpertCache's experts come from: the disk, or a level of memory beneath.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "cache/expert_store.h"

namespace hostler {

// Brings experts into the slots of a tier. Who asks names each by a number below depth(),
// which is free again once Wait() has returned it.
class ExpertSource {
 public:
  static constexpr int kHost = -1;  // no slot: only into the level beneath

  struct Done {
    int id = 0;
    absl::Status status;  // names the expert. Not OK: the slot holds anything
    int retries = 0;      // attempts more that are worth it, where someone waits
    // Asked for with kHost: where it is, held until HostLevel::Release().
    const std::byte* host = nullptr;
    // Over the link to a tier that is not on the host, if it came so.
    uint64_t copied_bytes = 0;
    double copy_seconds = 0;
  };

  virtual ~ExpertSource() = default;
  virtual int depth() const = 0;

  // Begins to bring `key` to `slot`, and does not wait. `demanded`: someone waits.
  // Returns whether the disk has to be read. Any thread.
  virtual bool Start(int id, ExpertKey key, int slot, bool demanded) = 0;
  // From now on someone waits for it. REQUIRES: Wait() has not returned `id` since Start()
  virtual void Demand(int id) = 0;

  // Waits for what was begun and does, in the calling thread, what is left to be done
  // with it; false after Stop(). Any thread, several at once.
  virtual bool Wait(Done* done) = 0;
  // Ends every Wait(), now and later.
  virtual void Stop() = 0;
};

}  // namespace hostler
