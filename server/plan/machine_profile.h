// What this machine can do, as measured by `hostler doctor --profile`: what
// `hostler plan` predicts from.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/dtype.h"
#include "nlohmann/json.hpp"

namespace hostler {

struct MachineProfile {
  struct DiskSpeed {
    uint64_t read_bytes = 0;  // of one read
    int depth = 0;            // reads at once
    double bytes_s = 0;
  };
  // Of a product of a matrix with `rows` rows of activations.
  struct KernelSpeed {
    int rows = 0;
    double macs_s = 0;  // multiply-adds
  };

  using Kernels = std::map<DType, std::vector<KernelSpeed>>;  // by rising rows
  struct GpuProfile {
    std::string name, backend;  // "NVIDIA H100 80GB HBM3", "cuda-sm90"
    uint64_t memory_bytes = 0;
    double memory_bytes_s = 0;                          // copied within it, read and written
    double to_device_bytes_s = 0, to_host_bytes_s = 0;  // of pinned memory
    double operation_s = 0;                             // as below
    Kernels kernels;
  };

  std::string cpu, backend;  // "Intel(R) Xeon(R) …", "cpu-avx512"
  int threads = 0;           // that everything below but memory_bytes_s_1 was measured with
  std::string disk_path, reader;
  bool past_page_cache = false;
  std::vector<DiskSpeed> disk;
  double memory_bytes_s_1 = 0;  // read by one thread
  double memory_bytes_s = 0;    // by all
  double operation_s = 0;       // of a backend's operation that has next to nothing to do
  Kernels kernels;
  std::vector<GpuProfile> gpus;  // as CUDA numbers them
  // > 0: what computes has memory of its own, and what it misses comes from the host's
  // memory at this speed. Of what OnGpu makes; no file has it.
  double link_bytes_s = 0;

  // Interpolated; reads smaller or larger than measured are as fast as the
  // nearest. 0 when no disk was measured.
  double DiskBytesPerSecond(uint64_t read_bytes, double depth) const;
  // Seconds for `macs` multiply-adds a row with `rows` rows (1 at least). A type
  // that was not measured is as fast as the slowest. REQUIRES: some type was.
  double KernelSeconds(DType type, double macs, double rows) const;
};

// The machine as it is to a model that this GPU of it computes: kernels and memory are the
// GPU's, and there is a link. REQUIRES: the GPU has kernels.
MachineProfile OnGpu(const MachineProfile& machine, const MachineProfile::GpuProfile& gpu);

// A GPU that is not here, by numbers: "24GiB,1008GB/s,25GB/s,165TFLOPS": its memory, how
// fast that is, the link's speed, and what it computes (may be left out: without limit).
// Kernels are as fast as these let them be. Errors: InvalidArgument.
absl::StatusOr<MachineProfile::GpuProfile> ParseGpuNumbers(std::string_view text);

nlohmann::ordered_json ToJson(const MachineProfile& profile);
// Profiles of versions before GPUs were measured have none. Errors: InvalidArgument naming
// what is wrong.
absl::StatusOr<MachineProfile> ParseMachineProfile(std::string_view text);

// $XDG_CACHE_HOME/hostler/profile.json, or below ~/.cache. "" without either.
std::string DefaultProfilePath();
// Makes the folders above `path` and tries to write beside it. Errors: as
// WriteMachineProfile.
absl::Status CheckProfilePath(const std::string& path);
// Makes the folders above `path`; replaces the file when all is written. Errors:
// those of PackFile, naming the file.
absl::Status WriteMachineProfile(const MachineProfile& profile, const std::string& path);
// Errors: NotFound that says how to make one; ParseMachineProfile's.
absl::StatusOr<MachineProfile> ReadMachineProfile(const std::string& path);

}  // namespace hostler
