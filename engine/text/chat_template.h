// The model's own chat template: messages → prompt text.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace hostler {

// A parsed Jinja template. Immutable; any thread. Bounded: a render that
// exceeds its limits of steps, output bytes or recursion fails.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;

  // `variables` is an object whose keys are the template's globals (messages,
  // tools, add_generation_prompt, bos_token, ...). Key order is kept. A string
  // "now" (ISO time) is what strftime_now uses; without it, the clock.
  // Errors: InvalidArgument with the template's own words when it calls
  // raise_exception, or with line and reason when it cannot be rendered.
  virtual absl::StatusOr<std::string> Render(const nlohmann::ordered_json& variables) const = 0;
};

// Errors: InvalidArgument with line and reason.
absl::StatusOr<std::unique_ptr<ChatTemplate>> ParseChatTemplate(const std::string& source);

// The template in a file. Errors: as above and NotFound, naming the file.
absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const std::string& path);

// The template of a Hugging Face directory: chat_template.jinja, or else what
// tokenizer_config.json says ("default", if it names several). Nullopt when
// there is none. Errors: InvalidArgument for malformed files.
absl::StatusOr<std::optional<std::string>> ReadChatTemplate(const std::string& directory);

}  // namespace hostler
