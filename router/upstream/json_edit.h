// Changing a few members of a JSON object, every other byte left as it is.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace hostler {

struct JsonEdit {
  std::string_view key;
  std::string value;  // JSON
};

// `object` with each edit's member set: its value replaced wherever its key
// stands at the outermost level, else the member put first. Errors:
// InvalidArgument when `object` is no JSON object, as far as is looked.
absl::StatusOr<std::string> EditJson(std::string_view object, const std::vector<JsonEdit>& edits);

}  // namespace hostler
