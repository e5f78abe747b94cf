#include <limits>
#include <string>
#include <utility>

#include "engine/base/status.h"
#include "server/openai/common_fields.h"
#include "server/openai/requests.h"

namespace hostler {

absl::StatusOr<GenerateRequest> ParseTokenizeRequest(std::string_view body) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  FieldReader fields(json, "");
  GenerateRequest request;
  fields.Read("model", &request.model);
  fields.Read("add_special_tokens", &request.add_special_tokens);
  if (fields.Find("messages") != nullptr) {
    if (fields.Find("prompt") != nullptr) fields.Fail("prompt", "cannot stand beside messages");
    ChatPrompt prompt;
    ReadChatPrompt(&fields, &prompt);
    request.prompt = std::move(prompt);
  } else {
    std::string text;
    fields.Read("prompt", &text);
    if (fields.Find("prompt") == nullptr) fields.Fail("prompt", "is required, or messages");
    request.prompt = std::move(text);
  }
  HOSTLER_RETURN_IF_ERROR(fields.status());
  return request;
}

absl::StatusOr<DetokenizeRequest> ParseDetokenizeRequest(std::string_view body) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  FieldReader fields(json, "");
  DetokenizeRequest request;
  fields.Read("model", &request.model);
  fields.ReadTokens("tokens", std::numeric_limits<size_t>::max(), &request.tokens);
  if (fields.Find("tokens") == nullptr) fields.Fail("tokens", "is required");
  HOSTLER_RETURN_IF_ERROR(fields.status());
  return request;
}

}  // namespace hostler
