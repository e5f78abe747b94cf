// A model's text side: tokenizer, chat template and what the template refers
// to, from beside the weights (Hugging Face) or from the file itself (GGUF).
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/gguf.h"
#include "nlohmann/json.hpp"

namespace hostler {

struct ModelText {
  std::unique_ptr<Tokenizer> tokenizer;         // null: there is none
  std::unique_ptr<ChatTemplate> chat_template;  // null: there is none
  nlohmann::ordered_json template_variables = nlohmann::ordered_json::object();  // bos_token, ...
};

// Errors: InvalidArgument, Unimplemented naming what is not supported.
absl::StatusOr<ModelText> LoadHfText(const std::string& directory);
absl::StatusOr<ModelText> LoadGgufText(const GgufMetadata& metadata);

// Whichever lies at `path`; no weights are read.
absl::StatusOr<ModelText> LoadModelText(const std::string& path);

}  // namespace hostler
