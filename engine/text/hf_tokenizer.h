// A tokenizer out of Hugging Face's JSON, wherever that was read from.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace hostler {

// `file` is a tokenizer.json, `config` a tokenizer_config.json or null.
// Errors: InvalidArgument for malformed content; Unimplemented naming the
// component that is not supported.
absl::StatusOr<std::unique_ptr<Tokenizer>> NewHfTokenizer(const nlohmann::json& file,
                                                          const nlohmann::json& config);

}  // namespace hostler
