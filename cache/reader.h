// Positional reads from the files an ExpertStore's extents point into.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/expert_store.h"

namespace hostler {

// Thread-safe: the cache's I/O threads read at the same time.
class Reader {
 public:
  virtual ~Reader() = default;

  // Reads all of `extent` into `out`, waiting for it.
  // Errors: DataLoss when the file ends early (it was truncated), Unavailable
  // for an I/O error; both name the file and the offset.
  // REQUIRES: out.size() == extent.bytes
  virtual absl::Status Read(const Extent& extent, std::span<std::byte> out) = 0;
};

// Reads with pread(2) through descriptors opened here and held until the
// reader is destroyed. Errors: NotFound, PermissionDenied.
absl::StatusOr<std::unique_ptr<Reader>> NewPreadReader(std::span<const std::string> paths);

}  // namespace hostler
