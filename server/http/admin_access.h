// Who may use /admin/.
#pragma once

#include "absl/status/status.h"
#include "server/http/reply.h"

namespace hostler {

enum class AdminAccess {
  kOff,
  kLocal,  // who is on this machine, as far as can be told
  kOn,     // whoever reaches the port
};

// Errors: PermissionDenied naming the setting.
absl::Status CheckAdminAccess(AdminAccess access, const HttpRequest& request);

}  // namespace hostler
