// Asynchronous reads from the files that an ExpertStore's extents point into.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/expert_store.h"

namespace hostler {

// A read gathers one expert's extents. Its caller names it by a number below
// depth(), which is free again once Wait() has returned it.
class Reader {
 public:
  struct Done {
    int id = 0;
    // Not OK: `out` holds anything. DataLoss when the file ends early (it was
    // truncated), Unavailable for an I/O error; both name the file and the
    // offset.
    absl::Status status;
  };

  virtual ~Reader() = default;
  virtual std::string_view name() const = 0;  // "io_uring", "pread"
  virtual int depth() const = 0;              // reads that may be under way
  virtual bool direct() const = 0;            // every file past the page cache

  // Begins to read `extents` one after another into `out`, and does not wait.
  // What of `out` lies beyond them may be overwritten with anything: room up to
  // a 4 KiB boundary saves a read past the page cache its buffer.
  // Any thread. REQUIRES: `id` is free; TotalBytes(extents) is at most
  // out.size(), and ReaderOptions::max_bytes where a buffer is needed; `extents`
  // and `out` stay valid until the read is done.
  virtual void Start(int id, std::span<const Extent> extents, std::span<std::byte> out) = 0;

  // Waits until a read is done and takes it; false after Stop(). Any thread,
  // several at once.
  virtual bool Wait(Done* done) = 0;

  // Ends every Wait(), now and later. The destructor waits for reads under way.
  virtual void Stop() = 0;
};

// Whether files are read past the page cache (O_DIRECT).
enum class DirectIo {
  kAuto,  // where a first read so works
  kOn,    // or not at all
  kOff,
};

struct ReaderOptions {
  enum class Method { kAuto, kUring, kPread };
  Method method = Method::kAuto;  // kAuto: io_uring where the kernel has it
  // Through the page cache means dropping behind what was read.
  DirectIo direct = DirectIo::kAuto;
  int depth = 8;
  uint64_t max_bytes = 0;  // of a read past the page cache that needs a buffer, ...
  int max_extents = 1;     // ... in this many parts
};

// Opens the files, which stay open as long as the reader. Errors: NotFound,
// PermissionDenied, Unavailable; Unimplemented where the method or the direct
// reads asked for do not exist; ResourceExhausted.
absl::StatusOr<std::unique_ptr<Reader>> NewReader(std::span<const std::string> paths,
                                                  const ReaderOptions& options);

// Options for reading the experts of `store`.
ReaderOptions ReaderOptionsFor(const ExpertStore& store);

// Reads and waits, with a reader that does nothing else. Errors: as Done's.
absl::Status ReadNow(Reader& reader, std::span<const Extent> extents, std::span<std::byte> out);

}  // namespace hostler
