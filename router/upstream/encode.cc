#include "router/upstream/encode.h"

#include <utility>
#include <variant>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "router/route_wish.h"
#include "router/upstream/json_edit.h"

namespace hostler {
namespace {

constexpr char kChatEndpoint[] = "/chat/completions";
constexpr char kCompletionsEndpoint[] = "/completions";

// stream_options of `body` with the usage asked for.
absl::StatusOr<std::string> WithUsage(const std::string& body) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseJson(body));
  Json options = Json::object();
  const Json* given = FindKey(json, "stream_options");
  if (given != nullptr && !given->is_null()) {
    // Not ours to judge.
    if (!given->is_object()) return given->dump();
    options = *given;
  }
  options["include_usage"] = true;
  return options.dump();
}

// `body` without what it says about routing.
absl::StatusOr<std::string> WithoutWish(const std::string& body) {
  HOSTLER_ASSIGN_OR_RETURN(Json json, ParseJson(body));
  for (const char* key : {"explain", "hostler"}) json.erase(key);
  return json.dump();
}

absl::StatusOr<EncodedRequest> EncodeOriginal(const UpstreamBody& original,
                                              const std::string& model) {
  EncodedRequest encoded;
  encoded.endpoint = original.endpoint;
  encoded.chat = original.endpoint == kChatEndpoint;
  encoded.stream = original.stream;
  encoded.hide_usage = original.stream && !original.include_usage;
  encoded.pass_through = true;
  std::vector<JsonEdit> edits = {{"model", ""}};
  AppendJsonString(model, &edits.front().value);
  if (encoded.hide_usage) {
    HOSTLER_ASSIGN_OR_RETURN(std::string options, WithUsage(original.json));
    edits.push_back({"stream_options", std::move(options)});
  }
  HOSTLER_ASSIGN_OR_RETURN(encoded.body, EditJson(original.json, edits));
  return encoded;
}

template <typename T>
void Set(const char* key, const std::optional<T>& value, Json* body) {
  if (value.has_value()) (*body)[key] = *value;
}

void SetSampling(const SamplingParams& sampling, Json* body) {
  Set("temperature", sampling.temperature, body);
  Set("top_k", sampling.top_k, body);
  Set("top_p", sampling.top_p, body);
  Set("min_p", sampling.min_p, body);
  Set("repetition_penalty", sampling.repetition_penalty, body);
  if (sampling.presence_penalty != 0) (*body)["presence_penalty"] = sampling.presence_penalty;
  if (sampling.frequency_penalty != 0) (*body)["frequency_penalty"] = sampling.frequency_penalty;
  for (const auto& [id, bias] : sampling.logit_bias) {
    (*body)["logit_bias"][std::to_string(id)] = bias;
  }
  Set("seed", sampling.seed, body);
}

// Fields that only some servers know are written where they say something.
void SetLimits(const GenerateRequest& request, Json* body) {
  if (request.n != 1) (*body)["n"] = request.n;
  Set("max_tokens", request.max_tokens, body);
  if (request.min_tokens > 0) (*body)["min_tokens"] = request.min_tokens;
  if (!request.stop.empty()) (*body)["stop"] = request.stop;
  if (!request.stop_token_ids.empty()) (*body)["stop_token_ids"] = request.stop_token_ids;
  if (request.ignore_eos) (*body)["ignore_eos"] = true;
  if (request.include_stop_str) (*body)["include_stop_str_in_output"] = true;
  if (!request.skip_special_tokens) (*body)["skip_special_tokens"] = false;
  if (!request.add_special_tokens) (*body)["add_special_tokens"] = false;
  if (!request.cache_salt.empty()) (*body)["cache_salt"] = request.cache_salt;
}

void SetChat(const ChatPrompt& prompt, Json* body) {
  (*body)["messages"] = prompt.messages;
  // Templates want the arguments of calls as objects, the API as text.
  for (Json& message : (*body)["messages"]) {
    if (FindKey(message, "tool_calls") == nullptr) continue;
    for (Json& call : message["tool_calls"]) {
      Json& arguments = call["function"]["arguments"];
      if (arguments.is_structured()) arguments = arguments.dump();
    }
  }
  if (!prompt.tools.is_null()) (*body)["tools"] = prompt.tools;
  if (!prompt.documents.is_null()) (*body)["documents"] = prompt.documents;
  if (!prompt.variables.empty()) (*body)["chat_template_kwargs"] = prompt.variables;
  if (!prompt.add_generation_prompt) (*body)["add_generation_prompt"] = false;
}

}  // namespace

absl::StatusOr<EncodedRequest> EncodeRequest(const GenerateRequest& request,
                                             const std::string& model) {
  if (request.original != nullptr) {
    UpstreamBody original = *request.original;
    if (request.route != nullptr && request.route->in_body) {
      HOSTLER_ASSIGN_OR_RETURN(original.json, WithoutWish(original.json));
    }
    return EncodeOriginal(original, model);
  }
  constexpr char kIdsUnknown[] = "cannot be had from an upstream, which does not tell token ids";
  if (request.logprobs.has_value()) return FieldError("logprobs", kIdsUnknown);
  if (request.prompt_logprobs.has_value()) return FieldError("prompt_logprobs", kIdsUnknown);
  EncodedRequest encoded;
  Json body = {{"model", model}};
  if (const auto* chat = std::get_if<ChatPrompt>(&request.prompt)) {
    encoded.endpoint = kChatEndpoint;
    encoded.chat = true;
    SetChat(*chat, &body);
  } else if (const auto* text = std::get_if<std::string>(&request.prompt)) {
    encoded.endpoint = kCompletionsEndpoint;
    body["prompt"] = *text;
  } else {
    encoded.endpoint = kCompletionsEndpoint;
    body["prompt"] = std::get<TokenPrompt>(request.prompt);
  }
  SetSampling(request.sampling, &body);
  SetLimits(request, &body);
  encoded.stream = encoded.hide_usage = true;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  encoded.body = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  return encoded;
}

}  // namespace hostler
