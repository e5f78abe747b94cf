// Post-processors: the tokens that a tokenizer puts around a text.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/vocabulary.h"
#include "nlohmann/json.hpp"

namespace hostler {

struct PostProcessor {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
};

// The "post_processor" of a tokenizer.json (null: none), as it treats a single
// text. Errors: InvalidArgument; Unimplemented naming the type.
absl::StatusOr<PostProcessor> ParsePostProcessor(const nlohmann::json& json,
                                                 const Vocabulary& vocabulary);

}  // namespace hostler
