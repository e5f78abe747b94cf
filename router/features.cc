#include "router/features.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <vector>

#include "engine/base/checksum.h"
#include "router/upstream_body.h"

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

uint64_t Chain(uint64_t before, std::string_view text) {
  return Checksum(text) ^ (before * 0x9e3779b97f4a7c15 + (before >> 29));
}

// One for each message; a plain prompt is one message.
std::vector<RouteFeatures::Prefix> Prefixes(const GenerateRequest& request) {
  std::vector<RouteFeatures::Prefix> prefixes;
  uint64_t hash = Checksum(request.cache_salt);
  if (const auto* text = std::get_if<std::string>(&request.prompt)) {
    return {{Chain(hash, *text), ToInt(text->size() / kBytesPerToken)}};
  }
  const auto* chat = std::get_if<ChatPrompt>(&request.prompt);
  if (chat == nullptr || !chat->messages.is_array()) return prefixes;
  size_t tokens = 0;
  for (const nlohmann::ordered_json& message : chat->messages) {
    const bool plain = message.is_object() && message.contains("content") &&
                       message["content"].is_string() && message.contains("role") &&
                       message["role"].is_string() && message.size() == 2;
    if (plain) {
      hash = Chain(hash, message["role"].get_ref<const std::string&>());
      hash = Chain(hash, message["content"].get_ref<const std::string&>());
    } else {
      hash = Chain(hash, message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    }
    tokens += MessageTokens(message);
    prefixes.push_back({hash, ToInt(tokens)});
  }
  return prefixes;
}

}  // namespace

int EstimatePromptTokens(const GenerateRequest& request) {
  if (const auto* ids = std::get_if<TokenPrompt>(&request.prompt)) return ToInt(ids->size());
  if (const auto* text = std::get_if<std::string>(&request.prompt)) {
    return ToInt((text->size() + kBytesPerToken - 1) / kBytesPerToken);
  }
  return ToInt(ChatTokens(std::get<ChatPrompt>(request.prompt)));
}

RouteFeatures ExtractFeatures(const GenerateRequest& request, std::string* storage) {
  RouteFeatures features;
  features.prompt_tokens = EstimatePromptTokens(request);
  features.prompt_tokens_estimated = !std::holds_alternative<TokenPrompt>(request.prompt);
  features.max_tokens = request.max_tokens.value_or(0);
  features.n = request.n;
  features.upstreams_only = request.original != nullptr && !request.original->engine_error.ok();
  features.prompt = ReadRoutePrompt(request, storage);
  if (request.route != nullptr) features.wish = *request.route;
  features.prefixes = Prefixes(request);
  features.seed = Checksum(request.id);
  features.now = std::chrono::steady_clock::now();
  return features;
}

}  // namespace hostler
