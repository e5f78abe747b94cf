#include "server/http/api_request.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "router/upstream/json_edit.h"
#include "router/upstream_body.h"

namespace hostler {
namespace {

bool RunsElsewhere(const std::unique_ptr<Target>& target) { return target->engine() == nullptr; }

std::string PromptJson(const GenerateRequest& request) {
  std::string json;
  if (const auto* text = std::get_if<std::string>(&request.prompt)) {
    AppendJsonString(*text, &json);
  } else if (const auto* ids = std::get_if<TokenPrompt>(&request.prompt)) {
    json = fmt::format("[{}]", fmt::join(*ids, ","));
  }
  return json;
}

UpstreamBody KeepBody(const HttpRequest& request, ApiEndpoint endpoint,
                      const AnswerOptions& answer) {
  UpstreamBody body;
  body.endpoint = endpoint == ApiEndpoint::kChat ? "/chat/completions" : "/completions";
  body.json = request.body;
  body.stream = answer.stream;
  body.include_usage = answer.include_usage;
  body.authorization = request.authorization;
  return body;
}

// One of several prompts goes as a request of its own.
absl::Status KeepBodies(const UpstreamBody& body, ApiRequest* parsed) {
  for (GenerateRequest& each : parsed->requests) {
    UpstreamBody own = body;
    if (parsed->requests.size() > 1) {
      HOSTLER_ASSIGN_OR_RETURN(own.json, EditJson(body.json, {{"prompt", PromptJson(each)}}));
    }
    each.original = std::make_shared<const UpstreamBody>(std::move(own));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ApiRequest> ReadApiRequest(const Router& router, const HttpRequest& request,
                                          ApiEndpoint endpoint) {
  const bool chat = endpoint == ApiEndpoint::kChat;
  const auto parse = chat ? ParseChatRequest : ParseCompletionRequest;
  const auto& targets = router.targets();
  if (std::none_of(targets.begin(), targets.end(), RunsElsewhere)) return parse(request.body);

  HOSTLER_ASSIGN_OR_RETURN(ApiRequest lenient, chat ? ParseChatForUpstream(request.body)
                                                    : ParseCompletionForUpstream(request.body));
  const std::string& model = lenient.requests.front().model;
  UpstreamBody body = KeepBody(request, endpoint, lenient.answer);
  Target* named = model.empty() ? targets.front().get() : router.Find(model);
  if (named != nullptr && named->engine() == nullptr) {
    HOSTLER_RETURN_IF_ERROR(KeepBodies(body, &lenient));
    return lenient;
  }
  absl::StatusOr<ApiRequest> strict = parse(request.body);
  if (named != nullptr) return strict;
  if (!strict.ok()) {
    body.engine_error = strict.status();
    strict = std::move(lenient);
  }
  HOSTLER_RETURN_IF_ERROR(KeepBodies(body, &*strict));
  return strict;
}

}  // namespace hostler
