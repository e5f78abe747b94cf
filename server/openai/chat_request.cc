#include <iterator>
#include <limits>
#include <string>
#include <utility>

#include "engine/base/status.h"
#include "server/openai/common_fields.h"
#include "server/openai/requests.h"

namespace hostler {
namespace {

constexpr int kMaxInt = std::numeric_limits<int>::max();

bool IsTextOnly(const Json& value) {
  if (!value.is_array()) return false;
  for (const Json& item : value) {
    if (item != "text") return false;
  }
  return true;
}

// A tool call is never parsed out of the answer's text, so "auto" leaves the
// call in the text and nothing can be required.
bool IsToolChoiceLeftToModel(const Json& value) { return value == "auto" || value == "none"; }

constexpr UnsupportedField kUnsupported[] = {
    {"tool_choice", IsToolChoiceLeftToModel, "only \"auto\" and \"none\" are supported"},
    {"function_call", IsToolChoiceLeftToModel, "is not supported"},
    {"functions", IsEmptyOrFalse, "is not supported; use tools"},
    {"audio", NeverHarmless, "is not supported"},
    {"modalities", IsTextOnly, "only [\"text\"] is supported"},
    {"web_search_options", NeverHarmless, "is not supported"},
    {"chat_template", NeverHarmless, "the model's own template is used"},
    {"continue_final_message", IsEmptyOrFalse, "is not supported"},
    {"echo", IsEmptyOrFalse, "is not supported in chat"},
};

void ReadMaxTokens(FieldReader* fields, GenerateRequest* request) {
  fields->ReadInt("max_tokens", 1, kMaxInt, &request->max_tokens);
  fields->ReadInt("max_completion_tokens", 1, kMaxInt, &request->max_tokens);
  if (request->max_tokens.has_value() && request->min_tokens > *request->max_tokens) {
    fields->Fail("min_tokens", "must not be larger than max_tokens");
  }
}

void ReadLogprobs(FieldReader* fields, AnswerOptions* answer) {
  bool wanted = false;
  std::optional<int> top;
  fields->Read("logprobs", &wanted);
  fields->ReadInt("top_logprobs", 0, kMaxLogprobs, &top);
  if (top.value_or(0) > 0 && !wanted) fields->Fail("top_logprobs", "needs logprobs: true");
  if (wanted) answer->logprobs = top.value_or(0);
}

}  // namespace

absl::StatusOr<ApiRequest> ParseChatRequest(std::string_view body) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  FieldReader fields(json, "");
  ApiRequest result;
  result.answer.chat = true;
  GenerateRequest request;
  ReadCommonFields(&fields, &request, &result.answer);
  ReadMaxTokens(&fields, &request);
  ReadLogprobs(&fields, &result.answer);
  request.logprobs = result.answer.logprobs;
  RefuseUnsupported(&fields, std::begin(kUnsupported), std::end(kUnsupported));
  ChatPrompt prompt;
  ReadChatPrompt(&fields, &prompt);
  const Json* tool_choice = fields.Find("tool_choice");
  if (tool_choice != nullptr && *tool_choice == "none") prompt.tools = nullptr;
  HOSTLER_RETURN_IF_ERROR(fields.status());
  request.prompt = std::move(prompt);
  result.requests.push_back(std::move(request));
  return result;
}

}  // namespace hostler
