// Post-processors: the tokens that a tokenizer puts around a text.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace hostler {

struct PostProcessor {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
};

// The "post_processor" of a tokenizer.json (null: none), as it treats a single
// text. `is_token` says which ids there are. Errors: InvalidArgument; Unimplemented naming the
// type.
absl::StatusOr<PostProcessor> ParsePostProcessor(const nlohmann::json& json,
                                                 const std::function<bool(int32_t)>& is_token);

}  // namespace hostler
