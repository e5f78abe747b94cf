// The directory that a packed store is written into: beside its target, under
// another name, until everything in it is on the disk.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hostler {

// A new file, written from front to back. Errors of every method:
// ResourceExhausted when the disk is full, else Unavailable; both name the file.
class PackFile {
 public:
  static absl::StatusOr<std::unique_ptr<PackFile>> Create(const std::string& path);
  ~PackFile();
  PackFile(const PackFile&) = delete;
  PackFile& operator=(const PackFile&) = delete;

  absl::Status Write(std::span<const std::byte> bytes);
  absl::Status Write(std::string_view text) { return Write(std::as_bytes(std::span(text))); }
  // Zeros up to a multiple of `alignment` (at most 4096).
  absl::Status PadTo(uint64_t alignment);
  // Waits until the disk has everything. Once, at the end.
  absl::Status Finish();

  uint64_t bytes() const { return bytes_; }

 private:
  PackFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  const std::string path_;
  int fd_;
  uint64_t bytes_ = 0;
};

// Named TARGET.partial-PID. The destructor removes it unless it was
// committed; one that a killed process left is removed by the next Create for
// the same target.
class PackDirectory {
 public:
  // With `replace`, an existing packed store or empty directory is replaced by
  // Commit. Errors: AlreadyExists; FailedPrecondition when another process is
  // packing to `target`, or it is something that must not be replaced; NotFound,
  // PermissionDenied, Unavailable.
  static absl::StatusOr<std::unique_ptr<PackDirectory>> Create(const std::string& target,
                                                               bool replace);
  ~PackDirectory();
  PackDirectory(const PackDirectory&) = delete;
  PackDirectory& operator=(const PackDirectory&) = delete;

  std::string PathOf(std::string_view name) const;
  // Errors: ResourceExhausted when the disk has no room for `bytes`.
  absl::Status CheckSpace(uint64_t bytes) const;
  // Gives the directory its name; nobody sees half of it. REQUIRES: all files
  // are finished
  absl::Status Commit();

 private:
  PackDirectory(std::string target, std::string path, int fd, bool replace)
      : target_(std::move(target)), path_(std::move(path)), fd_(fd), replace_(replace) {}

  const std::string target_, path_;
  const int fd_;  // of the directory, locked
  const bool replace_;
  bool committed_ = false;
};

}  // namespace hostler
