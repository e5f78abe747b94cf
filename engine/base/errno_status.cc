#include "engine/base/errno_status.h"

#include <cerrno>
#include <system_error>

#include "fmt/format.h"

namespace hostler {

absl::Status ErrnoStatus(const std::string& path, std::string_view what) {
  const int error = errno;
  const std::string message =
      fmt::format("{}: {}: {}", path, what, std::generic_category().message(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

}  // namespace hostler
