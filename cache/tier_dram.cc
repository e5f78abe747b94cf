#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>
#include <vector>

#include "cache/tier.h"

namespace hostler {
namespace {

constexpr size_t kSlotAlignment = 4096;
constexpr size_t kHugePageBytes = size_t{2} << 20;

class DramTier : public Tier {
 public:
  struct Range {
    int first = 0;      // slot
    size_t offset = 0;  // of it, in the arena
    size_t stride = 0;  // from slot to slot
  };

  DramTier(std::byte* arena, size_t bytes, std::vector<Range> ranges)
      : arena_(arena), bytes_(bytes), ranges_(std::move(ranges)) {
    // Only wishes: the kernel may have been built without huge pages, and the
    // process may not be allowed to lock memory.
    if (bytes_ >= kHugePageBytes) madvise(arena_, bytes_, MADV_HUGEPAGE);
    locked_ = mlock2(arena_, bytes_, MLOCK_ONFAULT) == 0;
  }
  ~DramTier() override { munmap(arena_, bytes_); }

  std::span<std::byte> slot(int index) override {
    const Range& range = RangeOf(index);
    return {arena_ + range.offset + (index - range.first) * range.stride, range.stride};
  }

  bool on_host() const override { return true; }

  absl::Status Fill(int index, std::span<const std::byte> bytes,
                    const std::atomic<bool>&) override {
    std::copy(bytes.begin(), bytes.end(), slot(index).begin());
    return absl::OkStatus();
  }

  void Discard(int index) override {
    const size_t stride = RangeOf(index).stride;
    std::byte* const begin = slot(index).data();
    if (locked_) munlock(begin, stride);
    madvise(begin, stride, MADV_DONTNEED);
    if (locked_) mlock2(begin, stride, MLOCK_ONFAULT);
  }

  bool locked() const override { return locked_; }

 private:
  const Range& RangeOf(int index) const {
    return *std::find_if(ranges_.rbegin(), ranges_.rend(),
                         [index](const Range& range) { return range.first <= index; });
  }

  std::byte* const arena_;
  const size_t bytes_;
  const std::vector<Range> ranges_;
  bool locked_ = false;
};

}  // namespace

size_t SlotStride(size_t slot_bytes) {
  return (slot_bytes + kSlotAlignment - 1) & ~(kSlotAlignment - 1);
}

absl::StatusOr<std::unique_ptr<Tier>> NewDramTier(std::span<const SlotClass> classes) {
  std::vector<DramTier::Range> ranges;
  size_t bytes = 0;
  int slots = 0;
  for (const SlotClass& slot : classes) {
    size_t range = 0;
    const size_t stride = SlotStride(slot.bytes);
    if (slot.count <= 0 || slot.bytes == 0 || stride < slot.bytes ||
        __builtin_mul_overflow(stride, static_cast<size_t>(slot.count), &range) ||
        __builtin_add_overflow(bytes, range, &bytes)) {
      return absl::ResourceExhaustedError(
          fmt::format("no memory for {} slots of {} bytes", slot.count, slot.bytes));
    }
    ranges.push_back({slots, bytes - range, stride});
    slots += slot.count;
  }
  void* arena = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED) {
    return absl::ResourceExhaustedError(fmt::format("no memory for {} slots, {} bytes: {}", slots,
                                                    bytes, std::generic_category().message(errno)));
  }
  return std::make_unique<DramTier>(static_cast<std::byte*>(arena), bytes, std::move(ranges));
}

}  // namespace hostler
