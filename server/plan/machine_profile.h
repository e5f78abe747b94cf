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

  std::string cpu, backend;  // "Intel(R) Xeon(R) …", "cpu-avx512"
  int threads = 0;           // that everything below but memory_bytes_s_1 was measured with
  std::string disk_path, reader;
  bool past_page_cache = false;
  std::vector<DiskSpeed> disk;
  double memory_bytes_s_1 = 0;  // read by one thread
  double memory_bytes_s = 0;    // by all
  double operation_s = 0;       // of a backend's operation that has next to nothing to do
  std::map<DType, std::vector<KernelSpeed>> kernels;  // by rising rows

  // Interpolated; reads smaller or larger than measured are as fast as the
  // nearest. 0 when no disk was measured.
  double DiskBytesPerSecond(uint64_t read_bytes, double depth) const;
  // Seconds for `macs` multiply-adds a row with `rows` rows (1 at least). A type
  // that was not measured is as fast as the slowest. REQUIRES: some type was.
  double KernelSeconds(DType type, double macs, double rows) const;
};

nlohmann::ordered_json ToJson(const MachineProfile& profile);
// Errors: InvalidArgument naming what is wrong.
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
