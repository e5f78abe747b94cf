// A file mapped read-only, which may be truncated or fail under us without
// killing the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hostler {

// The first Open() installs a process-wide SIGBUS handler. It puts a page of
// zeros where a mapped page could not be read and marks the mapping damaged;
// every other SIGBUS goes to the handler that was there before.
//
// Every method may be called from any thread. Whoever reads bytes() must not
// do so after the destructor has started.
class MappedFile {
 public:
  // Mappings that can be alive at a time in one process.
  static constexpr int kMaxMappings = 1024;

  // Errors: NotFound, PermissionDenied, InvalidArgument when `path` is no
  // regular file, ResourceExhausted, Unavailable for an I/O error.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }

  // Whole pages of `part` that are of this mapping take no memory of the process
  // until they are read again.
  void Release(std::span<const std::byte> part) const;

  // DataLoss once a page could not be read or the file has become shorter.
  // Stays so from then on.
  absl::Status Health() const;

 private:
  MappedFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status Map();

  const std::string path_;
  const int fd_;
  int entry_ = -1;  // in the table the signal handler looks into
  std::span<const std::byte> bytes_;
};

}  // namespace hostler
