#include "cache/read_plan.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <system_error>

namespace hostler {
namespace {

constexpr uint64_t RoundDown(uint64_t x) { return x / kDirectAlignment * kDirectAlignment; }
constexpr uint64_t RoundUp(uint64_t x) { return RoundDown(x + kDirectAlignment - 1); }

// Extents that follow each other in the file.
struct Run {
  Extent extent;
  size_t to = 0;  // from where the read's memory begins
  // Whether the whole pages that hold it may be read to where it belongs.
  bool in_place = false;
};

// Calls visit(run) in order. `memory` is as much as the read may overwrite, its
// first address `misaligned` bytes past a page's begin.
template <typename Visit>
void ForEachRun(std::span<const Extent> extents, uint64_t misaligned, uint64_t memory,
                const Visit& visit) {
  uint64_t to = 0;
  for (size_t i = 0; i < extents.size(); ++i) {
    Run run{.extent = extents[i], .to = to};
    Extent& extent = run.extent;
    while (i + 1 < extents.size() && extents[i + 1].file == extent.file &&
           extents[i + 1].offset == extent.offset + extent.bytes) {
      extent.bytes += extents[++i].bytes;
    }
    if (extent.bytes == 0) continue;
    to += extent.bytes;
    const bool aligned =
        (misaligned + run.to) % kDirectAlignment == 0 && extent.offset % kDirectAlignment == 0;
    // The end of the last page would overwrite what follows, the slack behind
    // the last extent apart.
    const uint64_t excess = RoundUp(extent.bytes) - extent.bytes;
    run.in_place = aligned && (excess == 0 || (i + 1 == extents.size() && memory - to >= excess));
    visit(run);
  }
}

// Some file systems take the flag and then refuse to read.
bool ReadsDirectly(int descriptor) {
  const std::unique_ptr<void, decltype(&std::free)> page(
      std::aligned_alloc(kDirectAlignment, kDirectAlignment), &std::free);
  return page != nullptr && pread(descriptor, page.get(), kDirectAlignment, 0) >= 0;
}

}  // namespace

OpenFiles::~OpenFiles() {
  for (const File& file : files_) {
    close(file.descriptor);
    if (file.cached >= 0) close(file.cached);
  }
}

absl::StatusOr<OpenFiles> OpenFiles::Open(std::span<const std::string> paths, DirectIo direct) {
  OpenFiles files;
  files.files_.reserve(paths.size());
  for (const std::string& path : paths) {
    int descriptor =
        direct != DirectIo::kOff ? open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT) : -1;
    bool reads_directly = descriptor >= 0 && ReadsDirectly(descriptor);
    if (!reads_directly) {
      if (descriptor >= 0) close(descriptor);
      descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    }
    if (descriptor >= 0) {
      const bool both = reads_directly && direct == DirectIo::kAuto;
      files.files_.push_back(
          {path, descriptor, reads_directly, both ? open(path.c_str(), O_RDONLY | O_CLOEXEC) : -1});
      if (reads_directly || direct != DirectIo::kOn) continue;
      return absl::UnimplementedError(
          fmt::format("{}: its file system cannot read past the page cache (O_DIRECT)", path));
    }
    const int error = errno;
    const std::string message =
        fmt::format("{}: open: {}", path, std::generic_category().message(error));
    if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(message);
    if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
    return absl::UnavailableError(message);
  }
  return files;
}

bool OpenFiles::InPageCache(int file, uint64_t offset) const {
  if (files_[file].cached < 0) return false;
  std::byte first{};
  const iovec to = {&first, 1};
  return preadv2(files_[file].cached, &to, 1, static_cast<off_t>(offset), RWF_NOWAIT) == 1;
}

absl::Status OpenFiles::EndsEarly(int file, uint64_t offset) const {
  return absl::DataLossError(
      fmt::format("{}: the file ends at or before offset {}, where more of an expert was expected",
                  files_[file].path, offset));
}

absl::Status OpenFiles::Failed(int file, uint64_t offset, int error) const {
  return absl::UnavailableError(fmt::format("{}: read at offset {}: {}", files_[file].path, offset,
                                            std::generic_category().message(error)));
}

bool ReadRequest::Advance(size_t count) {
  count = std::min(count, length);
  if (cached && count < needed) {
    cached = false;
    count = RoundDown(count);
  }
  offset += count;
  to += count;
  length -= count;
  needed -= std::min(needed, count);
  return needed == 0;
}

size_t BounceBytes(uint64_t bytes, size_t extents) {
  return RoundUp(bytes) + 2 * kDirectAlignment * extents;
}

bool ReadsInPlace(std::span<const Extent> extents) {
  bool in_place = true;
  ForEachRun(extents, 0, RoundUp(TotalBytes(extents)),
             [&in_place](const Run& run) { in_place = in_place && run.in_place; });
  return in_place;
}

void PlanRead(const OpenFiles& files, std::span<const Extent> extents, std::span<std::byte> out,
              std::byte* bounce, std::vector<ReadRequest>* requests) {
  requests->clear();
  const uint64_t misaligned = reinterpret_cast<uintptr_t>(out.data()) % kDirectAlignment;
  ForEachRun(extents, misaligned, out.size(), [&](const Run& run) {
    const Extent& extent = run.extent;
    ReadRequest request{.file = extent.file, .offset = extent.offset, .length = extent.bytes};
    request.needed = request.kept = extent.bytes;
    request.to = request.out = out.data() + run.to;
    if (files.direct(extent.file)) {
      const uint64_t before = extent.offset % kDirectAlignment;
      request.offset -= before;
      request.needed += before;
      request.length = RoundUp(request.needed);
      if (!run.in_place) {
        request.to = bounce;
        request.from = bounce + before;
        bounce += request.length;
      }
      request.cached = files.InPageCache(request.file, request.offset);
    }
    requests->push_back(request);
  });
}

void FinishRead(const OpenFiles& files, std::span<const ReadRequest> requests) {
  for (const ReadRequest& request : requests) {
    if (request.from != nullptr) std::memcpy(request.out, request.from, request.kept);
    if (files.direct(request.file)) continue;
    // Advance() has moved the offset to the end.
    posix_fadvise(files.descriptor(request.file), static_cast<off_t>(request.offset - request.kept),
                  static_cast<off_t>(request.kept), POSIX_FADV_DONTNEED);
  }
}

}  // namespace hostler
