#include "router/features.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace hostler {
namespace {

constexpr size_t kBytesPerToken = 4;
// A chat template's markers around one message.
constexpr size_t kTokensPerMessage = 4;

int ToInt(size_t tokens) {
  return static_cast<int>(std::min<size_t>(tokens, std::numeric_limits<int>::max()));
}

// Bytes of all strings and keys in `json`. No recursion: its depth is the
// client's to choose.
size_t TextBytes(const nlohmann::ordered_json& json) {
  size_t bytes = 0;
  std::vector<const nlohmann::ordered_json*> open = {&json};
  while (!open.empty()) {
    const nlohmann::ordered_json& value = *open.back();
    open.pop_back();
    if (value.is_string()) bytes += value.get_ref<const std::string&>().size();
    if (!value.is_structured()) continue;
    for (auto it = value.begin(); it != value.end(); ++it) {
      if (value.is_object()) bytes += it.key().size();
      open.push_back(&*it);
    }
  }
  return bytes;
}

// As TextBytes, but of a message only what its author wrote.
size_t MessageTokens(const nlohmann::ordered_json& message) {
  const bool has_content = message.is_object() && message.contains("content");
  const size_t bytes = TextBytes(has_content ? message["content"] : message);
  return kTokensPerMessage + bytes / kBytesPerToken;
}

size_t ChatTokens(const ChatPrompt& chat) {
  size_t tokens = (TextBytes(chat.tools) + TextBytes(chat.documents)) / kBytesPerToken;
  if (!chat.messages.is_array()) return tokens;
  for (const nlohmann::ordered_json& message : chat.messages) tokens += MessageTokens(message);
  return tokens;
}

}  // namespace

RouteFeatures ExtractFeatures(const GenerateRequest& request) {
  RouteFeatures features;
  features.max_tokens = request.max_tokens.value_or(0);
  if (const auto* ids = std::get_if<TokenPrompt>(&request.prompt)) {
    features.prompt_tokens = ToInt(ids->size());
    return features;
  }
  features.prompt_tokens_estimated = true;
  if (const auto* text = std::get_if<std::string>(&request.prompt)) {
    features.prompt_tokens = ToInt((text->size() + kBytesPerToken - 1) / kBytesPerToken);
  } else {
    features.prompt_tokens = ToInt(ChatTokens(std::get<ChatPrompt>(request.prompt)));
  }
  return features;
}

}  // namespace hostler
