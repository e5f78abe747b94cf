#include "engine/compute/cuda/emulation/memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace hostler::cuda_emulation {
namespace {

constexpr size_t kPage = 4096;
// Addresses are plenty: none is used again.
constexpr size_t kAddresses = size_t{1} << 40;

size_t Pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Data ends where its pages do, as far as alignment allows: what reads past it faults.
size_t BeforeData(size_t bytes) { return Pages(bytes) - (bytes + 255) / 256 * 256; }

}  // namespace

Memory::Memory() {
  void* base =
      mmap(nullptr, kAddresses, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) std::abort();
  base_ = static_cast<std::byte*>(base);
}

void* Memory::AllocateDevice(size_t bytes) {
  const size_t pages = Pages(bytes) + kPage;  // and one that is never accessible
  std::lock_guard lock(mutex_);
  size_t in_use = 0;
  for (const auto& [begin, size] : device_) in_use += Pages(size);
  if (bytes > kDeviceBytes || in_use + pages > kDeviceBytes || used_ + pages > kAddresses) {
    return nullptr;
  }
  std::byte* memory = base_ + used_ + BeforeData(bytes);
  used_ += pages;
  device_[memory] = bytes;
  Protect(memory, bytes, !guarded_ || busy_ > 0);
  return memory;
}

void* Memory::AllocatePinned(size_t bytes) {
  void* memory = std::aligned_alloc(kPage, Pages(bytes));
  if (memory == nullptr) return nullptr;
  std::lock_guard lock(mutex_);
  pinned_[static_cast<std::byte*>(memory)] = bytes;
  return memory;
}

size_t Memory::FreeDevice(void* memory) {
  std::lock_guard lock(mutex_);
  const auto found = device_.find(static_cast<std::byte*>(memory));
  if (found == device_.end()) return 0;
  const size_t bytes = found->second;
  madvise(found->first - BeforeData(bytes), Pages(bytes), MADV_DONTNEED);
  Protect(found->first, bytes, false);
  device_.erase(found);
  return bytes;
}

size_t Memory::FreePinned(void* memory) {
  std::lock_guard lock(mutex_);
  const auto found = pinned_.find(static_cast<std::byte*>(memory));
  if (found == pinned_.end()) return 0;
  const size_t bytes = found->second;
  pinned_.erase(found);
  std::free(memory);
  return bytes;
}

bool Memory::Holds(const Blocks& blocks, const void* data, size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(data);
  auto after = blocks.upper_bound(const_cast<std::byte*>(begin));
  if (after == blocks.begin()) return false;
  const auto& [start, size] = *std::prev(after);
  return begin + bytes <= start + size;
}

bool Memory::IsDevice(const void* data, size_t bytes) const {
  std::lock_guard lock(mutex_);
  return Holds(device_, data, bytes);
}

bool Memory::IsPinned(const void* data, size_t bytes) const {
  std::lock_guard lock(mutex_);
  return Holds(pinned_, data, bytes);
}

size_t Memory::device_bytes_free() const {
  std::lock_guard lock(mutex_);
  size_t in_use = 0;
  for (const auto& [begin, size] : device_) in_use += Pages(size);
  return kDeviceBytes - in_use;
}

void Memory::Zero(void* data, size_t bytes) {
  std::byte* begin = static_cast<std::byte*>(data);
  std::byte* end = begin + bytes;
  std::byte* first = base_ + Pages(begin - base_);
  std::byte* last = base_ + (end - base_) / kPage * kPage;
  if (first >= last) {
    std::memset(begin, 0, bytes);
    return;
  }
  std::memset(begin, 0, first - begin);
  madvise(first, last - first, MADV_DONTNEED);
  std::memset(last, 0, end - last);
}

void Memory::Protect(std::byte* data, size_t bytes, bool accessible) {
  mprotect(data - BeforeData(bytes), Pages(bytes), accessible ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void Memory::ProtectAll(bool accessible) {
  for (const auto& [begin, bytes] : device_) Protect(begin, bytes, accessible);
}

void Memory::Guard(bool guard) {
  std::lock_guard lock(mutex_);
  if (guard == guarded_) return;
  guarded_ = guard;
  ProtectAll(!guard || busy_ > 0);
}

void Memory::Enter() {
  std::lock_guard lock(mutex_);
  if (busy_++ == 0 && guarded_) ProtectAll(true);
}

void Memory::Leave() {
  std::lock_guard lock(mutex_);
  if (--busy_ == 0 && guarded_) ProtectAll(false);
}

}  // namespace hostler::cuda_emulation
