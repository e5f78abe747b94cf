#include "server/http/admin_access.h"

#include <string_view>

#include "fmt/format.h"

namespace hostler {

absl::Status CheckAdminAccess(AdminAccess access, const HttpRequest& request) {
  if (access == AdminAccess::kOn) return absl::OkStatus();
  if (access == AdminAccess::kOff) {
    return absl::PermissionDeniedError("the setting admin is off");
  }
  std::string_view why;
  if (!request.loopback) {
    why = "this request came from elsewhere";
  } else if (request.proxied) {
    why = "this request came through a proxy";
  } else if (!request.local_host) {
    why = "this request's Host is neither localhost nor a loopback address";
  } else {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(fmt::format(
      "{}, and the setting admin is local: only requests from this machine are answered. "
      "Where only operators reach the port, set admin to on",
      why));
}

}  // namespace hostler
