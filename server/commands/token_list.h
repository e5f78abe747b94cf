// Token ids as people and scripts write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace hostler {

// "1,2,3", "1 2 3" (commas and white space in any mix) or a JSON list. Errors:
// InvalidArgument for anything else, negative ids included. No ids is fine.
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(std::string_view text);

// The value of --tokens: ids, or "@FILE" that holds them. Errors: as above;
// NotFound; InvalidArgument for an empty list.
absl::StatusOr<std::vector<int32_t>> ReadTokensFlag(const std::string& value);

}  // namespace hostler
