// A file that is written as a whole.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace hostler {

// Writes PATH.new, waits until the disk has it, and gives it the name: nobody sees half
// of it. `mode`: its permissions. Calls take turns; what a killed process left is
// replaced. Errors: ErrnoStatus's, and nothing is left then; FailedPrecondition when
// `path` is a folder.
absl::Status ReplaceFile(const std::string& path, std::string_view bytes, unsigned mode = 0644);

// Whether it could be written now, by making and removing PATH.new.
absl::Status CheckReplaceable(const std::string& path);

}  // namespace hostler
