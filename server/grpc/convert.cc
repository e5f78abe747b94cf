#include "server/grpc/convert.h"

#include <array>
#include <limits>
#include <string>
#include <utility>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "server/openai/common_fields.h"
#include "server/openai/fields.h"
#include "server/status_codes.h"

namespace hostler {
namespace {

constexpr int kMaxInt = std::numeric_limits<int>::max();

void PutSampling(const v1::SamplingParams& from, Json* body) {
  const auto put = [body](const char* name, bool is_set, double value) {
    if (is_set) (*body)[name] = value;
  };
  put("temperature", from.has_temperature(), from.temperature());
  put("top_p", from.has_top_p(), from.top_p());
  put("min_p", from.has_min_p(), from.min_p());
  put("repetition_penalty", from.has_repetition_penalty(), from.repetition_penalty());
  put("presence_penalty", from.has_presence_penalty(), from.presence_penalty());
  put("frequency_penalty", from.has_frequency_penalty(), from.frequency_penalty());
  if (from.has_top_k()) (*body)["top_k"] = from.top_k();
  if (from.logit_bias().empty()) return;
  // Appended without a search for the same key: the map has none twice.
  Json::object_t bias;
  for (const auto& [id, amount] : from.logit_bias()) {
    bias.emplace_back(std::to_string(id), Json(amount));
  }
  (*body)["logit_bias"] = Json(std::move(bias));
}

// The fields that OpenAI's API has as well, in its form: one set of checks
// serves both front ends.
Json CommonFields(const v1::GenerateRequest& from) {
  Json body = Json::object();
  PutSampling(from.sampling(), &body);
  if (from.has_n()) body["n"] = from.n();
  if (from.has_max_tokens()) body["max_tokens"] = from.max_tokens();
  if (from.has_min_tokens()) body["min_tokens"] = from.min_tokens();
  if (from.has_logprobs()) body["logprobs"] = from.logprobs();
  if (from.has_prompt_logprobs()) body["prompt_logprobs"] = from.prompt_logprobs();
  if (from.has_skip_special_tokens()) body["skip_special_tokens"] = from.skip_special_tokens();
  if (!from.cache_salt().empty()) body["cache_salt"] = from.cache_salt();
  if (from.explain()) body["explain"] = true;
  if (from.has_hostler()) {
    const v1::RouteBounds& bounds = from.hostler();
    Json& json = body["hostler"] = Json::object();
    if (bounds.has_min_quality()) json["min_quality"] = bounds.min_quality();
    if (bounds.has_max_cost()) json["max_cost"] = bounds.max_cost();
    if (bounds.has_deadline_ms()) json["deadline_ms"] = bounds.deadline_ms();
  }
  if (!from.user().empty()) body["user"] = from.user();
  if (from.stop_size() > 0) body["stop"] = Json(from.stop());
  if (from.stop_token_ids_size() > 0) body["stop_token_ids"] = Json(from.stop_token_ids());
  return body;
}

absl::StatusOr<Json> ParseJsonField(const std::string& field, const std::string& text) {
  absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return FieldError(field, std::string(json.status().message()));
  return json;
}

absl::StatusOr<Json> MessageToJson(const v1::ChatMessage& from, const std::string& path) {
  Json message = Json::object();
  message["role"] = from.role();
  // Content that is left out and content that is empty look the same in
  // proto3; only the first may come with tool calls.
  if (!from.content().empty() || from.extra_json().empty()) message["content"] = from.content();
  if (!from.name().empty()) message["name"] = from.name();
  if (!from.tool_call_id().empty()) message["tool_call_id"] = from.tool_call_id();
  if (from.extra_json().empty()) return message;
  HOSTLER_ASSIGN_OR_RETURN(Json extra, ParseJsonField(path + ".extra_json", from.extra_json()));
  if (!extra.is_object()) return FieldError(path + ".extra_json", "must be a JSON object");
  for (auto& [name, value] : extra.get_ref<Json::object_t&>()) {
    if (!message.contains(name)) message[name] = std::move(value);
  }
  return message;
}

absl::StatusOr<ChatPrompt> ChatFromProto(const v1::Chat& from) {
  Json body = Json::object();
  Json& messages = body["messages"] = Json::array();
  for (int i = 0; i < from.messages_size(); ++i) {
    HOSTLER_ASSIGN_OR_RETURN(Json message,
                             MessageToJson(from.messages(i), fmt::format("chat.messages[{}]", i)));
    messages.push_back(std::move(message));
  }
  struct JsonField {
    const char* name;
    const std::string& text;
    const char* openai_name;
  };
  const std::array<JsonField, 3> fields = {{
      {"chat.tools_json", from.tools_json(), "tools"},
      {"chat.documents_json", from.documents_json(), "documents"},
      {"chat.variables_json", from.variables_json(), "chat_template_kwargs"},
  }};
  for (const JsonField& field : fields) {
    if (field.text.empty()) continue;
    HOSTLER_ASSIGN_OR_RETURN(Json value, ParseJsonField(field.name, field.text));
    body[field.openai_name] = std::move(value);
  }
  ChatPrompt prompt;
  FieldReader reader(body, "chat");
  ReadChatPrompt(&reader, &prompt);
  HOSTLER_RETURN_IF_ERROR(reader.status());
  if (from.has_add_generation_prompt()) {
    prompt.add_generation_prompt = from.add_generation_prompt();
  }
  return prompt;
}

void LogprobToProto(const TokenLogprob& from, v1::TokenLogprob* to) {
  to->set_id(from.id);
  to->set_logprob(from.logprob);
  to->set_bytes(from.bytes);
}

void PositionToProto(const PositionLogprobs& from, v1::PositionLogprobs* to) {
  LogprobToProto(from.chosen, to->mutable_chosen());
  for (const TokenLogprob& each : from.top) LogprobToProto(each, to->add_top());
}

}  // namespace

absl::StatusOr<GenerateRequest> FromProto(const v1::GenerateRequest& from) {
  GenerateRequest request;
  const Json body = CommonFields(from);
  FieldReader fields(body, "");
  AnswerOptions answer;
  ReadCommonFields(&fields, &request, &answer);
  fields.ReadInt("max_tokens", 1, kMaxInt, &request.max_tokens);
  fields.ReadInt("logprobs", 0, kMaxLogprobs, &request.logprobs);
  if (request.max_tokens.has_value() && request.min_tokens > *request.max_tokens) {
    fields.Fail("min_tokens", "must not be larger than max_tokens");
  }
  HOSTLER_RETURN_IF_ERROR(fields.status());

  request.model = from.model();
  request.ignore_eos = from.ignore_eos();
  request.include_stop_str = from.include_stop_str();
  if (from.has_add_special_tokens()) request.add_special_tokens = from.add_special_tokens();
  if (from.sampling().has_seed()) request.sampling.seed = from.sampling().seed();
  switch (from.prompt_case()) {
    case v1::GenerateRequest::kText:
      request.prompt = from.text();
      break;
    case v1::GenerateRequest::kTokenIds:
      request.prompt = TokenPrompt(from.token_ids().ids().begin(), from.token_ids().ids().end());
      break;
    case v1::GenerateRequest::kChat: {
      HOSTLER_ASSIGN_OR_RETURN(request.prompt, ChatFromProto(from.chat()));
      break;
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return FieldError("prompt", "one of text, token_ids and chat is required");
  }
  return request;
}

absl::StatusOr<GenerateRequest> FromProto(const v1::TokenizeRequest& from) {
  GenerateRequest request;
  request.model = from.model();
  if (from.has_add_special_tokens()) request.add_special_tokens = from.add_special_tokens();
  switch (from.prompt_case()) {
    case v1::TokenizeRequest::kText:
      request.prompt = from.text();
      break;
    case v1::TokenizeRequest::kChat: {
      HOSTLER_ASSIGN_OR_RETURN(request.prompt, ChatFromProto(from.chat()));
      break;
    }
    case v1::TokenizeRequest::PROMPT_NOT_SET:
      return FieldError("prompt", "one of text and chat is required");
  }
  return request;
}

v1::GenerateResponse DeltaToProto(const GenerateEvent& event) {
  v1::GenerateResponse response;
  v1::Delta* delta = response.mutable_delta();
  delta->set_index(event.index);
  delta->set_text(event.text);
  delta->mutable_token_ids()->Add(event.token_ids.begin(), event.token_ids.end());
  for (const PositionLogprobs& position : event.logprobs) {
    PositionToProto(position, delta->add_logprobs());
  }
  return response;
}

v1::GenerateResponse FinishedToProto(const GenerateEvent& event) {
  static constexpr std::array kReasons = {v1::FINISH_REASON_STOP, v1::FINISH_REASON_LENGTH,
                                          v1::FINISH_REASON_CANCELLED, v1::FINISH_REASON_ERROR};
  v1::GenerateResponse response;
  v1::Finished* finished = response.mutable_finished();
  finished->set_index(event.index);
  finished->set_finish_reason(kReasons[static_cast<size_t>(*event.finish_reason)]);
  finished->set_stop_reason(event.stop_reason);
  return response;
}

v1::GenerateResponse DoneToProto(const Usage& usage, const Timings& timings) {
  v1::GenerateResponse response;
  v1::Usage* to_usage = response.mutable_done()->mutable_usage();
  to_usage->set_prompt_tokens(usage.prompt_tokens);
  to_usage->set_cached_prompt_tokens(usage.cached_prompt_tokens);
  to_usage->set_completion_tokens(usage.completion_tokens);
  v1::Timings* to_timings = response.mutable_done()->mutable_timings();
  to_timings->set_queued_ms(timings.queued_ms);
  to_timings->set_first_token_ms(timings.first_token_ms);
  to_timings->set_total_ms(timings.total_ms);
  to_timings->set_preemptions(timings.preemptions);
  return response;
}

void PromptToProto(const PromptInfo& prompt, v1::Started* to) {
  to->set_prompt_tokens(static_cast<int>(prompt.token_ids.size()));
  for (const PositionLogprobs& position : prompt.logprobs) {
    PositionToProto(position, to->add_prompt_logprobs());
  }
}

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(MapStatus(status.code()).grpc),
                      std::string(status.message()));
}

}  // namespace hostler
