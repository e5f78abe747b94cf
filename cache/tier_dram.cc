#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "cache/tier.h"

namespace hostler {
namespace {

constexpr size_t kSlotAlignment = 4096;
constexpr size_t kHugePageBytes = size_t{2} << 20;

class DramTier : public Tier {
 public:
  DramTier(std::byte* arena, int num_slots, size_t slot_bytes, size_t stride)
      : arena_(arena), num_slots_(num_slots), slot_bytes_(slot_bytes), stride_(stride) {}
  ~DramTier() override { munmap(arena_, num_slots_ * stride_); }

  int num_slots() const override { return num_slots_; }
  size_t slot_bytes() const override { return slot_bytes_; }
  std::span<std::byte> slot(int index) override {
    return {arena_ + static_cast<size_t>(index) * stride_, slot_bytes_};
  }

 private:
  std::byte* const arena_;
  const int num_slots_;
  const size_t slot_bytes_;
  const size_t stride_;  // from slot to slot
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tier>> NewDramTier(int num_slots, size_t slot_bytes) {
  size_t stride = 0;
  size_t arena_bytes = 0;
  if (num_slots <= 0 || slot_bytes == 0 ||
      __builtin_add_overflow(slot_bytes, kSlotAlignment - 1, &stride) ||
      __builtin_mul_overflow(stride & ~(kSlotAlignment - 1), static_cast<size_t>(num_slots),
                             &arena_bytes)) {
    return absl::ResourceExhaustedError(
        fmt::format("no memory for {} slots of {} bytes", num_slots, slot_bytes));
  }
  stride &= ~(kSlotAlignment - 1);
  void* arena =
      mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (arena == MAP_FAILED) {
    return absl::ResourceExhaustedError(fmt::format("no memory for {} slots of {} bytes: {}",
                                                    num_slots, slot_bytes,
                                                    std::generic_category().message(errno)));
  }
  // Only a wish: the kernel may have been built without huge pages.
  if (arena_bytes >= kHugePageBytes) madvise(arena, arena_bytes, MADV_HUGEPAGE);
  return std::make_unique<DramTier>(static_cast<std::byte*>(arena), num_slots, slot_bytes, stride);
}

}  // namespace hostler
