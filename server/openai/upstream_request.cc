#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "engine/base/status.h"
#include "server/openai/common_fields.h"
#include "server/openai/requests.h"

namespace hostler {
namespace {

// Choices of one answer; more than any server makes.
constexpr int64_t kMaxChoices = 4096;
constexpr int64_t kMaxInt = INT32_MAX;

// A field that may be something else, which is the upstream's to refuse.
std::optional<int> Count(const Json& body, std::string_view name, int64_t low, int64_t high) {
  const Json* value = FindKey(body, name);
  if (value == nullptr) return std::nullopt;
  const absl::StatusOr<int64_t> count = ToInt(*value, low, high);
  if (!count.ok()) return std::nullopt;
  return int(*count);
}

bool IsTrue(const Json* value) { return value != nullptr && *value == true; }

absl::StatusOr<ApiRequest> ReadForm(const Json& body) {
  FieldReader fields(body, "");
  ApiRequest result;
  GenerateRequest request;
  AnswerOptions& answer = result.answer;
  fields.Read("model", &request.model);
  HOSTLER_RETURN_IF_ERROR(fields.status());
  answer.stream = IsTrue(fields.Find("stream"));
  const Json* options = fields.Find("stream_options");
  answer.include_usage =
      answer.stream && options != nullptr && IsTrue(FindKey(*options, "include_usage"));
  answer.n = Count(body, "n", 1, kMaxChoices).value_or(1);
  request.max_tokens = Count(body, "max_completion_tokens", 0, kMaxInt);
  if (!request.max_tokens.has_value()) request.max_tokens = Count(body, "max_tokens", 0, kMaxInt);
  request.n = answer.n;
  ReadRouteWish(&fields, &request);
  HOSTLER_RETURN_IF_ERROR(fields.status());
  result.requests.push_back(std::move(request));
  return result;
}

// Several prompts as one text, for their length and words.
void ReadPrompts(const Json& prompt, ApiRequest* result) {
  GenerateRequest& request = result->requests.front();
  std::string text;
  if (const auto* whole = prompt.get_ptr<const std::string*>()) text = *whole;
  const bool several = prompt.is_array() && !prompt.empty() && !prompt[0].is_number();
  if (several) {
    for (const Json& each : prompt) {
      if (const auto* part = each.get_ptr<const std::string*>()) text += *part + "\n";
    }
    const int64_t choices = int64_t(prompt.size()) * request.n;
    request.n = result->answer.n = int(std::min(choices, kMaxChoices));
  } else if (prompt.is_array()) {
    if (absl::StatusOr<std::vector<int32_t>> ids = ToTokens(prompt, "prompt"); ids.ok()) {
      request.prompt = *std::move(ids);
      return;
    }
  }
  request.prompt = std::move(text);
}

}  // namespace

absl::StatusOr<ApiRequest> ParseCompletionForUpstream(std::string_view body) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  HOSTLER_ASSIGN_OR_RETURN(ApiRequest result, ReadForm(json));
  const Json* prompt = FindKey(json, "prompt");
  ReadPrompts(prompt == nullptr ? Json() : *prompt, &result);
  return result;
}

absl::StatusOr<ApiRequest> ParseChatForUpstream(std::string_view body) {
  HOSTLER_ASSIGN_OR_RETURN(Json json, ParseBody(body));
  HOSTLER_ASSIGN_OR_RETURN(ApiRequest result, ReadForm(json));
  result.answer.chat = true;
  ChatPrompt prompt;
  if (FindKey(json, "messages") != nullptr) prompt.messages = std::move(json["messages"]);
  if (FindKey(json, "tools") != nullptr) prompt.tools = std::move(json["tools"]);
  result.requests.front().prompt = std::move(prompt);
  return result;
}

}  // namespace hostler
