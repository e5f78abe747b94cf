#include "engine/weights/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>

#include "engine/base/errno_status.h"
#include "engine/base/status.h"

namespace hostler {
namespace {

// What the signal handler may look at: lock-free, never freed. `begin` is 0
// while the entry describes nothing. It is written last and cleared first, and
// read again after `size`, so that the handler never pairs the begin of one
// mapping with the size of another (all accesses are sequentially consistent).
struct MappingEntry {
  std::atomic<uintptr_t> begin{0};
  std::atomic<size_t> size{0};
  std::atomic<bool> damaged{false};
};
static_assert(std::atomic<uintptr_t>::is_always_lock_free);

constinit std::array<MappingEntry, MappedFile::kMaxMappings> g_mappings;
constinit std::mutex g_mappings_mutex;  // taken to claim and to free entries, not by the handler
struct sigaction g_previous_action;
size_t g_page_bytes = 0;

MappingEntry* FindMapping(uintptr_t address, uintptr_t* begin, size_t* size) {
  for (MappingEntry& entry : g_mappings) {
    *begin = entry.begin.load();
    if (*begin == 0 || address < *begin) continue;
    *size = entry.size.load();
    if (address - *begin < *size && entry.begin.load() == *begin) return &entry;
  }
  return nullptr;
}

bool ReplaceByZeros(uintptr_t begin, size_t size) {
  return mmap(reinterpret_cast<void*>(begin), size, PROT_READ,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
}

void CallPreviousHandler(int signal_number, siginfo_t* info, void* context) {
  if (g_previous_action.sa_flags & SA_SIGINFO) {
    g_previous_action.sa_sigaction(signal_number, info, context);
    return;
  }
  const bool from_a_fault = info->si_code > 0;
  if (g_previous_action.sa_handler != SIG_DFL && g_previous_action.sa_handler != SIG_IGN) {
    g_previous_action.sa_handler(signal_number);
    return;
  }
  if (g_previous_action.sa_handler == SIG_IGN && !from_a_fault) return;
  // The faulting instruction runs again after the return and dies of the
  // default action; a signal that was sent has to be sent again.
  struct sigaction default_action = {};
  default_action.sa_handler = SIG_DFL;
  sigaction(signal_number, &default_action, nullptr);
  if (!from_a_fault) raise(signal_number);
}

// Async-signal-safe: touches the table and makes system calls.
void OnSigbus(int signal_number, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  uintptr_t begin = 0;
  size_t size = 0;
  // Only faults (si_code > 0) carry an address.
  const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
  MappingEntry* entry = info->si_code > 0 ? FindMapping(address, &begin, &size) : nullptr;
  bool replaced = false;
  if (entry != nullptr) {
    entry->damaged.store(true);
    // The kernel's limit on areas can forbid another hole in the mapping; the
    // whole mapping as one area always fits.
    replaced =
        ReplaceByZeros(address & ~(g_page_bytes - 1), g_page_bytes) || ReplaceByZeros(begin, size);
  }
  if (!replaced) CallPreviousHandler(signal_number, info, context);
  errno = saved_errno;
}

void InstallHandlerOnce() {
  static std::once_flag once;
  std::call_once(once, [] {
    g_page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    sigaction(SIGBUS, nullptr, &g_previous_action);
    struct sigaction action = {};
    action.sa_sigaction = OnSigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, nullptr);
  });
}

// Returns the entry, or -1 when the table is full.
int RegisterMapping(uintptr_t begin, size_t size) {
  std::lock_guard lock(g_mappings_mutex);
  for (int i = 0; i < MappedFile::kMaxMappings; ++i) {
    if (g_mappings[i].begin.load() != 0) continue;
    g_mappings[i].damaged.store(false);
    g_mappings[i].size.store(size);
    g_mappings[i].begin.store(begin);
    return i;
  }
  return -1;
}

void UnregisterMapping(int index) {
  std::lock_guard lock(g_mappings_mutex);
  g_mappings[index].begin.store(0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  InstallHandlerOnce();
  // O_NONBLOCK: opening a FIFO must not wait for its writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(path, "open");
  std::unique_ptr<MappedFile> file(new MappedFile(path, fd));
  HOSTLER_RETURN_IF_ERROR(file->Map());
  return file;
}

absl::Status MappedFile::Map() {
  struct stat info;
  if (fstat(fd_, &info) != 0) return ErrnoStatus(path_, "fstat");
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(fmt::format("{}: not a regular file", path_));
  }
  const size_t size = static_cast<size_t>(info.st_size);
  if (size == 0) return absl::OkStatus();
  void* address = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd_, 0);
  if (address == MAP_FAILED) return ErrnoStatus(path_, "mmap");
  entry_ = RegisterMapping(reinterpret_cast<uintptr_t>(address), size);
  if (entry_ < 0) {
    munmap(address, size);
    return absl::ResourceExhaustedError(
        fmt::format("{}: more than {} files mapped", path_, kMaxMappings));
  }
  bytes_ = {static_cast<const std::byte*>(address), size};
  return absl::OkStatus();
}

MappedFile::~MappedFile() {
  if (entry_ >= 0) {
    UnregisterMapping(entry_);
    munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
  close(fd_);
}

void MappedFile::Release(std::span<const std::byte> part) const {
  const auto address = [](const std::byte* p) { return reinterpret_cast<uintptr_t>(p); };
  const uintptr_t begin = std::max(address(part.data()), address(bytes_.data()));
  const uintptr_t end =
      std::min(address(part.data() + part.size()), address(bytes_.data() + bytes_.size()));
  const uintptr_t first = (begin + g_page_bytes - 1) & ~(g_page_bytes - 1);
  const uintptr_t last = end & ~(g_page_bytes - 1);
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

absl::Status MappedFile::Health() const {
  if (entry_ < 0) return absl::OkStatus();
  std::atomic<bool>& damaged = g_mappings[entry_].damaged;
  // What truncation cuts off within the last page reads as zeros without any
  // signal; only the size tells.
  struct stat info;
  if (fstat(fd_, &info) != 0 || static_cast<size_t>(info.st_size) < bytes_.size()) {
    damaged.store(true);
  }
  if (!damaged.load()) return absl::OkStatus();
  return absl::DataLossError(
      fmt::format("{}: could not be read in full; it was truncated after it was opened, or the "
                  "disk failed",
                  path_));
}

}  // namespace hostler
