#include "router/route_prompt.h"

namespace hostler {
namespace {

using Json = nlohmann::ordered_json;

// A message's text, its parts put together.
void AppendText(const Json& message, std::string* out) {
  if (!message.is_object() || !message.contains("content")) return;
  const Json& content = message["content"];
  if (content.is_string()) *out += content.get_ref<const std::string&>();
  if (!content.is_array()) return;
  for (const Json& part : content) {
    if (!part.is_object() || !part.contains("text") || !part["text"].is_string()) continue;
    *out += part["text"].get_ref<const std::string&>();
    out->push_back('\n');
  }
}

bool IsUsers(const Json& message) {
  return message.is_object() && message.contains("role") && message["role"] == "user";
}

}  // namespace

const char* EmbeddingUseName(EmbeddingUse use) {
  switch (use) {
    case EmbeddingUse::kNone:
      return "";
    case EmbeddingUse::kUsed:
      return "used";
    case EmbeddingUse::kSkipped:
      return "skipped";
    case EmbeddingUse::kFailed:
      return "failed";
    case EmbeddingUse::kNoEncoder:
      return "no_encoder";
  }
  return "";
}

RoutePrompt ReadRoutePrompt(const GenerateRequest& request, std::string* storage) {
  RoutePrompt prompt;
  if (const auto* text = std::get_if<std::string>(&request.prompt)) {
    prompt.text = *text;
    return prompt;
  }
  const auto* chat = std::get_if<ChatPrompt>(&request.prompt);
  if (chat == nullptr) return prompt;
  prompt.tools = chat->tools.is_array() && !chat->tools.empty();
  if (!chat->messages.is_array() || chat->messages.empty()) return prompt;
  const Json& messages = chat->messages;
  prompt.messages = static_cast<int>(messages.size());
  size_t last = messages.size() - 1;
  while (last > 0 && !IsUsers(messages[last])) --last;
  storage->clear();
  for (size_t i = 0; i < last; ++i) {
    AppendText(messages[i], storage);
    storage->push_back('\n');
  }
  const size_t before = storage->size();
  AppendText(messages[last], storage);
  prompt.context = std::string_view(*storage).substr(0, before);
  prompt.text = std::string_view(*storage).substr(before);
  return prompt;
}

}  // namespace hostler
