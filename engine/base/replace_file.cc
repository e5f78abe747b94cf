#include "engine/base/replace_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <mutex>

#include "absl/status/statusor.h"
#include "engine/base/errno_status.h"
#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

std::mutex one_at_a_time;

std::string TemporaryOf(const std::string& path) { return path + ".new"; }

absl::StatusOr<int> Create(const std::string& path, unsigned mode) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return absl::FailedPreconditionError(fmt::format("{}: is a folder, not a file", path));
  }
  const std::string temporary = TemporaryOf(path);
  unlink(temporary.c_str());
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) return ErrnoStatus(temporary, "create");
  return fd;
}

absl::Status Write(int fd, const std::string& path, std::string_view bytes, unsigned mode) {
  if (fchmod(fd, mode) != 0) return ErrnoStatus(path, "chmod");
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(path, "write");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus(path, "fsync");
}

}  // namespace

absl::Status ReplaceFile(const std::string& path, std::string_view bytes, unsigned mode) {
  const std::lock_guard lock(one_at_a_time);
  HOSTLER_ASSIGN_OR_RETURN(const int fd, Create(path, mode));
  const std::string temporary = TemporaryOf(path);
  absl::Status status = Write(fd, temporary, bytes, mode);
  if (close(fd) != 0 && status.ok()) status = ErrnoStatus(temporary, "close");
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = ErrnoStatus(path, "rename");
  }
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::Status CheckReplaceable(const std::string& path) {
  const std::lock_guard lock(one_at_a_time);
  HOSTLER_ASSIGN_OR_RETURN(const int fd, Create(path, 0600));
  close(fd);
  unlink(TemporaryOf(path).c_str());
  return absl::OkStatus();
}

}  // namespace hostler
