// The host's share of a step's experts: activations come down, the host computes while
// the device does what is queued, results go up.
#pragma once

#include <span>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cuda/device_memory.h"
#include "engine/compute/cuda/host_experts.h"
#include "engine/compute/cuda/launch.h"
#include "engine/compute/cuda/parameters.h"

namespace hostler {

// One thread. Errors go to the launcher.
class HostShare {
 public:
  // Both must outlive it. `threads` compute, in integers as the device does or not.
  HostShare(Launcher* launcher, Parameters* parameters, bool integers, int threads)
      : launcher_(*launcher), parameters_(*parameters), integers_(integers), threads_(threads) {}

  // Queues the copy of x that tasks on the host need, before others are queued. REQUIRES:
  // the launcher is flushed.
  void Begin(std::span<const ExpertTask> tasks, Mat x);
  // Computes those, and queues what brings their results to `out`.
  void End(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x, Mat out);

 private:
  bool Reserve(PinnedPtr* memory, size_t* bytes, size_t wanted);

  Launcher& launcher_;
  Parameters& parameters_;
  const bool integers_;
  const int threads_;
  std::unique_ptr<HostExperts> experts_;  // from the first task on
  EventPtr down_, up_;                    // x has come; results have been taken
  PinnedPtr x_, results_;
  size_t x_bytes_ = 0, result_bytes_ = 0;
  std::vector<int32_t> out_rows_;
};

// out[rows[i]] = from[i]; `from` is pinned memory of the host, which the device reads.
void LaunchScatterRows(Launcher& launcher, Mat from, const int32_t* rows, Mat out);

}  // namespace hostler
