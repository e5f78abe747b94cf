#include "engine/compute/cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "engine/base/bytes.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

class MappedBuffer : public Buffer {
 public:
  MappedBuffer(void* mapping, size_t mapped_bytes, size_t bytes)
      : mapping_(mapping), mapped_bytes_(mapped_bytes), bytes_(bytes) {
    const uintptr_t start = reinterpret_cast<uintptr_t>(mapping);
    const size_t alignment = mapped_bytes > bytes + kHugePageBytes ? kHugePageBytes : 1;
    data_ = reinterpret_cast<std::byte*>((start + alignment - 1) / alignment * alignment);
  }
  ~MappedBuffer() override { munmap(mapping_, mapped_bytes_); }

  std::byte* data() override { return data_; }
  size_t bytes() const override { return bytes_; }
  void Discard(size_t from, size_t to) override {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t base = reinterpret_cast<uintptr_t>(data_);
    const uintptr_t first = (base + from + page - 1) / page * page;
    const uintptr_t last = (base + std::min(to, bytes_)) / page * page;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }

 private:
  void* mapping_;
  size_t mapped_bytes_;
  std::byte* data_;
  size_t bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Buffer>> AllocateHostMemory(size_t bytes) {
  const bool huge = bytes >= 2 * kHugePageBytes;
  // Room to start at a huge page's boundary, and for a mapping of 0 bytes.
  const size_t extra = huge ? kHugePageBytes + 1 : 1;
  void* mapping = MAP_FAILED;
  if (bytes <= SIZE_MAX / 2) {
    // What is never written is not to count, whatever the system's overcommit rule.
    mapping = mmap(nullptr, bytes + extra, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  if (mapping == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        fmt::format("cannot allocate {} of memory", FormatBytes(bytes)));
  }
  if (huge) madvise(mapping, bytes + extra, MADV_HUGEPAGE);  // advice: it may be refused
  return std::make_unique<MappedBuffer>(mapping, bytes + extra, bytes);
}

}  // namespace hostler
