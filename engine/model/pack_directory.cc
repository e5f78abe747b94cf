#include "engine/model/pack_directory.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "engine/base/bytes.h"
#include "engine/base/errno_status.h"
#include "engine/base/status.h"
#include "engine/weights/packed.h"
#include "fmt/format.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPartial = ".partial-";

absl::Status SyncDirectory(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(path, "open");
  const absl::Status status = fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus(path, "fsync");
  close(fd);
  return status;
}

// What lies at the target now.
absl::Status CheckTarget(const std::string& target, bool replace) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(target, error);
  if (status.type() == fs::file_type::not_found) return absl::OkStatus();
  if (!replace) {
    return absl::AlreadyExistsError(
        fmt::format("{} exists; give another name, or --force to replace a packed store", target));
  }
  const bool empty = status.type() == fs::file_type::directory && fs::is_empty(target, error);
  if (empty || (status.type() == fs::file_type::directory && HoldsPackedStore(target))) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      fmt::format("{} is neither a packed store nor an empty directory; it is left alone", target));
}

// Whoever packs holds a lock on its directory; the lock ends with the process.
absl::Status RemoveLeftovers(const std::string& target) {
  const fs::path parent = fs::path(target).parent_path();
  const std::string begin = fs::path(target).filename().string() + kPartial;
  std::error_code error;
  for (fs::directory_iterator it(parent, error), end; !error && it != end; it.increment(error)) {
    if (!it->path().filename().string().starts_with(begin)) continue;
    const int fd = open(it->path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) continue;
    const bool busy = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    std::error_code ignored;
    if (!busy) fs::remove_all(it->path(), ignored);
    close(fd);
    if (busy) {
      return absl::FailedPreconditionError(fmt::format("another process is packing to {}", target));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackFile>> PackFile::Create(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(path, "create");
  return std::unique_ptr<PackFile>(new PackFile(path, fd));
}

PackFile::~PackFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status PackFile::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(path_, fmt::format("write at {}", bytes_));
    bytes = bytes.subspan(written);
    bytes_ += written;
  }
  return absl::OkStatus();
}

absl::Status PackFile::PadTo(uint64_t alignment) {
  static constexpr std::array<std::byte, 4096> kZeros = {};
  const uint64_t over = bytes_ % alignment;
  return over == 0 ? absl::OkStatus() : Write(std::span(kZeros).first(alignment - over));
}

absl::Status PackFile::Finish() {
  if (fsync(fd_) != 0) return ErrnoStatus(path_, "fsync");
  if (close(std::exchange(fd_, -1)) != 0) return ErrnoStatus(path_, "close");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PackDirectory>> PackDirectory::Create(const std::string& given,
                                                                     bool replace) {
  std::error_code error;
  fs::path normal = fs::absolute(given, error).lexically_normal();
  if (!normal.has_filename()) normal = normal.parent_path();
  const std::string target = normal.string();
  if (!fs::is_directory(normal.parent_path(), error)) {
    return absl::NotFoundError(
        fmt::format("{}: there is no directory {}", given, normal.parent_path().string()));
  }
  HOSTLER_RETURN_IF_ERROR(CheckTarget(target, replace));
  HOSTLER_RETURN_IF_ERROR(RemoveLeftovers(target));
  const std::string path = fmt::format("{}{}{}", target, kPartial, getpid());
  if (mkdir(path.c_str(), 0777) != 0) return ErrnoStatus(path, "create");
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(path, "open");
  // Not every file system has locks; without them leftovers are only removed
  // less carefully.
  flock(fd, LOCK_EX | LOCK_NB);
  return std::unique_ptr<PackDirectory>(new PackDirectory(target, path, fd, replace));
}

PackDirectory::~PackDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(path_, ignored);
  close(fd_);
}

std::string PackDirectory::PathOf(std::string_view name) const {
  return (fs::path(path_) / name).string();
}

absl::Status PackDirectory::CheckSpace(uint64_t bytes) const {
  struct statvfs info;
  if (fstatvfs(fd_, &info) != 0) return absl::OkStatus();  // writing will tell
  const uint64_t free = uint64_t(info.f_bavail) * info.f_frsize;
  if (bytes <= free) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format("{}: the store takes {}, the disk has {} free",
                                                  target_, FormatBytes(bytes), FormatBytes(free)));
}

absl::Status PackDirectory::Commit() {
  if (fsync(fd_) != 0) return ErrnoStatus(path_, "fsync");
  int renamed = renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_NOREPLACE);
  if (renamed != 0 && errno == EINVAL) renamed = rename(path_.c_str(), target_.c_str());
  if (renamed != 0 && (errno == EEXIST || errno == ENOTEMPTY) && replace_) {
    HOSTLER_RETURN_IF_ERROR(CheckTarget(target_, replace_));
    // The old store takes the partial directory's name, and its end.
    if (renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
      return ErrnoStatus(target_, "replace");
    }
    const absl::Status synced = SyncDirectory(fs::path(target_).parent_path().string());
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    committed_ = true;
    return synced;
  }
  if (renamed != 0) return ErrnoStatus(target_, "rename");
  committed_ = true;
  return SyncDirectory(fs::path(target_).parent_path().string());
}

}  // namespace hostler
