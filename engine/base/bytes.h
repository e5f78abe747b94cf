// Sizes as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace hostler {

// "8GiB", "512MiB", "2G" (binary, as in dd), "1.5GB" (decimal), "4096".
// Errors: InvalidArgument.
absl::StatusOr<uint64_t> ParseBytes(std::string_view text);

// "3.63 GiB", "196 KiB", "17 B".
std::string FormatBytes(uint64_t bytes);

// Memory this process may use: the least of RAM and the cgroup's limit.
uint64_t UsableMemoryBytes();

}  // namespace hostler
