// Failed system calls on files as statuses.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace hostler {

// What errno says of `what` (a call) on the file `path`, naming all three:
// NotFound, PermissionDenied, ResourceExhausted (disk, memory, descriptors),
// else Unavailable. To be called before anything else that sets errno.
absl::Status ErrnoStatus(const std::string& path, std::string_view what);

}  // namespace hostler
