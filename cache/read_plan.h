// What both readers share: open files, and how a read becomes requests that a
// file opened past the page cache accepts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/expert_store.h"
#include "cache/reader.h"

namespace hostler {

// Offsets, lengths and addresses of O_DIRECT requests are multiples of this.
inline constexpr size_t kDirectAlignment = 4096;

// Read-only files. Immutable after Open(); any thread.
class OpenFiles {
 public:
  OpenFiles() = default;
  OpenFiles(OpenFiles&& other) noexcept : files_(std::move(other.files_)) {}
  OpenFiles& operator=(OpenFiles&&) = delete;
  ~OpenFiles();

  // Errors: NotFound, PermissionDenied, Unavailable; Unimplemented for kOn
  // where a first direct read fails.
  static absl::StatusOr<OpenFiles> Open(std::span<const std::string> paths, DirectIo direct);

  int descriptor(int file) const { return files_[file].descriptor; }
  bool direct(int file) const { return files_[file].direct; }
  // Of a direct file that may also be read through the page cache; else -1.
  int cached_descriptor(int file) const { return files_[file].cached; }
  // Whether that has the page at `offset` and, as files come and go as a whole,
  // most likely those behind it.
  bool InPageCache(int file, uint64_t offset) const;
  bool all_direct() const {
    return std::all_of(files_.begin(), files_.end(), [](const File& f) { return f.direct; });
  }

  absl::Status EndsEarly(int file, uint64_t offset) const;
  absl::Status Failed(int file, uint64_t offset, int error) const;

 private:
  struct File {
    std::string path;
    int descriptor = -1;
    bool direct = false;
    int cached = -1;
  };
  std::vector<File> files_;
};

// A request to the kernel: `length` bytes from `offset` to `to`, of which the
// first `needed` must come (a file may end within its last page). Then the
// `kept` bytes at `from` are moved to `out`; null: they are there already.
struct ReadRequest {
  int file = 0;
  uint64_t offset = 0;
  size_t length = 0;
  size_t needed = 0;
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  std::byte* out = nullptr;
  size_t kept = 0;
  // To be read from the page cache, with cached_descriptor() and RWF_NOWAIT, which
  // is several times as fast as the disk, as far as the pages are there.
  bool cached = false;

  // Moves on by `count` bytes that came; true when nothing more is needed. What
  // the page cache lacks is from then on read past it.
  bool Advance(size_t count);
};

// Whether a read into aligned memory, whose last page it may fill, needs no
// bounce buffer.
bool ReadsInPlace(std::span<const Extent> extents);

// Bytes of bounce buffer that a read of `bytes` in `extents` parts may take.
size_t BounceBytes(uint64_t bytes, size_t extents);

// The requests of a read, into `*requests` (whose capacity is kept). What is not
// aligned, or has no room in `out` for its last page, goes through `bounce`,
// which is aligned.
void PlanRead(const OpenFiles& files, std::span<const Extent> extents, std::span<std::byte> out,
              std::byte* bounce, std::vector<ReadRequest>* requests);

// After all requests came: moves bounced bytes to where they belong, and lets
// go of pages that a file read through the page cache left there.
void FinishRead(const OpenFiles& files, std::span<const ReadRequest> requests);

}  // namespace hostler
