// Measures a MachineProfile.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/plan/machine_profile.h"

namespace hostler {

struct MeasureOptions {
  // A file to read, or a folder in which one is written for the time being.
  std::string disk;
  int threads = 0;                            // 0: the cores this process may use
  double seconds = 0.25;                      // for each number; there are about 90
  uint64_t file_bytes = uint64_t{512} << 20;  // of a file that is written
  uint64_t memory_bytes = 0;                  // read in turn; 0: four times the caches
  int64_t dim = 2048;                         // of the matrices; a multiple of 256
  std::vector<std::string> devices;           // GPUs to measure as well: "cuda:0"
  int most_rows = 512;                        // of a product
};

// Takes 256 MiB of memory, or four times the last cache if that is more. `progress` hears what is
// being measured. Errors: the reader's and the backends'; Unavailable when the file cannot be
// written; FailedPrecondition when it is too small.
absl::StatusOr<MachineProfile> MeasureMachine(
    const MeasureOptions& options, const std::function<void(const std::string&)>& progress);

}  // namespace hostler
