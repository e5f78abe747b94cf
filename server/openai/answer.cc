#include "server/openai/answer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/base/wire_error.h"
#include "fmt/format.h"
#include "server/status_codes.h"

namespace hostler {
namespace {

std::string NullOrString(std::string_view text) {
  if (text.empty()) return "null";
  std::string json;
  AppendJsonString(text, &json);
  return json;
}

}  // namespace

std::string UsageJson(const Usage& usage) {
  return fmt::format(R"({{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},)"
                     R"("prompt_tokens_details":{{"cached_tokens":{}}}}})",
                     usage.prompt_tokens, usage.completion_tokens,
                     int64_t{usage.prompt_tokens} + usage.completion_tokens,
                     usage.cached_prompt_tokens);
}

std::string ErrorBody(const absl::Status& status) {
  if (std::optional<WireError> wire = FindWireError(status); wire && !wire->body.empty()) {
    return std::move(wire->body);
  }
  const StatusMapping& mapping = MapStatus(status.code());
  std::string message;
  AppendJsonString({status.message().data(), status.message().size()}, &message);
  return fmt::format(R"({{"error":{{"message":{},"type":"{}","param":{},"code":{}}}}})", message,
                     mapping.type, NullOrString(ErrorField(status)),
                     NullOrString(mapping.openai_code));
}

std::string ErrorEvent(const absl::Status& status) {
  std::string body = ErrorBody(status);
  // JSON's line ends mean nothing; an event's do.
  std::replace_if(
      body.begin(), body.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return fmt::format("data: {}\n\n", body);
}

}  // namespace hostler
