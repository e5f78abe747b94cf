#include "router/upstream/answer_reader.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/upstream/errors.h"

namespace hostler {
namespace {

// A string member, "" when it is none.
std::string_view Text(const Json& object, std::string_view key) {
  const Json* value = FindKey(object, key);
  const auto* text = value == nullptr ? nullptr : value->get_ptr<const std::string*>();
  return text == nullptr ? std::string_view() : std::string_view(*text);
}

// A count, 0 when it is none.
int Count(const Json& object, std::string_view key) {
  const Json* value = FindKey(object, key);
  if (value == nullptr || !value->is_number_integer()) return 0;
  return int(std::clamp<int64_t>(value->get<int64_t>(), 0, std::numeric_limits<int>::max()));
}

bool IsSomething(const Json& object, std::string_view key) {
  const Json* value = FindKey(object, key);
  return value != nullptr && !value->is_null() && !(value->is_array() && value->empty());
}

// Whether a message, or a part of one, has what the model made.
bool HasTokens(const Json& message) {
  return !Text(message, "content").empty() || !Text(message, "reasoning_content").empty() ||
         !Text(message, "reasoning").empty() || !Text(message, "refusal").empty() ||
         IsSomething(message, "tool_calls") || IsSomething(message, "function_call");
}

}  // namespace

AnswerReader::AnswerReader(Options options)
    : options_(std::move(options)),
      begun_(size_t(std::max(options_.n, 1))),
      ended_(begun_.size()) {}

absl::Status AnswerReader::Broken(std::string_view what) const {
  return BadAnswer(options_.upstream, fmt::format("answered what is no answer: {}", what));
}

absl::StatusOr<Json> AnswerReader::Parse(std::string_view text) {
  absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return Broken(std::string(json.status().message()));
  if (!json->is_object()) return Broken("it is not a JSON object");
  const Json* error = FindKey(*json, "error");
  if (error == nullptr || error->is_null()) return json;
  reported_ = true;
  return ReportedError(options_.upstream, *error, text);
}

absl::Status AnswerReader::ReadChunk(std::string data, std::vector<GenerateEvent>* events) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, Parse(data));
  const size_t first = events->size();
  HOSTLER_RETURN_IF_ERROR(ReadChoices(json, /*whole=*/false, events));
  ReadUsage(json);
  const bool only_usage = events->size() == first && IsSomething(json, "usage");
  if (!options_.pass_through || (only_usage && options_.hide_usage)) return absl::OkStatus();
  if (events->size() == first) events->emplace_back();
  (*events)[first].wire = std::move(data);
  return absl::OkStatus();
}

absl::Status AnswerReader::ReadWhole(std::string body, std::vector<GenerateEvent>* events) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, Parse(body));
  const size_t first = events->size();
  HOSTLER_RETURN_IF_ERROR(ReadChoices(json, /*whole=*/true, events));
  if (events->size() == first) return Broken("it has no choices");
  ReadUsage(json);
  if (usage_told_ && events->size() == first + 1) {
    (*events)[first].unnamed_tokens = usage_.completion_tokens;
  }
  if (options_.pass_through) (*events)[first].wire = std::move(body);
  return absl::OkStatus();
}

absl::Status AnswerReader::ReadChoices(const Json& answer, bool whole,
                                       std::vector<GenerateEvent>* events) {
  const Json* choices = FindKey(answer, "choices");
  if (choices == nullptr || choices->is_null()) return absl::OkStatus();
  if (!choices->is_array()) return Broken("its choices are not a list");
  for (const Json& choice : *choices) {
    if (!choice.is_object()) return Broken("one of its choices is not an object");
    HOSTLER_RETURN_IF_ERROR(ReadChoice(choice, whole, &events->emplace_back()));
  }
  return absl::OkStatus();
}

absl::Status AnswerReader::ReadChoice(const Json& choice, bool whole, GenerateEvent* event) {
  const Json* index = FindKey(choice, "index");
  if (index != nullptr && !index->is_number_integer()) return Broken("a choice has no index");
  const int64_t number = index == nullptr ? 0 : index->get<int64_t>();
  if (number < 0 || number >= int64_t(begun_.size())) {
    return Broken(fmt::format("it has a choice {}, but {} were asked for", number, begun_.size()));
  }
  event->index = int(number);
  begun_[number] = true;
  bool has_tokens = false;
  if (options_.chat) {
    const Json* message = FindKey(choice, whole ? "message" : "delta");
    if (message != nullptr && message->is_object()) {
      event->text = Text(*message, "content");
      has_tokens = HasTokens(*message);
    }
  } else {
    event->text = Text(choice, "text");
    has_tokens = !event->text.empty();
  }
  // A piece of a stream is a token, most often; four bytes of text are one.
  const int pieces = whole ? std::max(1, int(event->text.size() / 4)) : 1;
  event->unnamed_tokens = has_tokens ? pieces : 0;
  if (!usage_told_) usage_.completion_tokens += event->unnamed_tokens;
  const std::string_view reason = Text(choice, "finish_reason");
  if (!reason.empty()) {
    ended_[number] = true;
    event->finish_reason = reason == "length" ? FinishReason::kLength : FinishReason::kStop;
    event->stop_reason = Text(choice, "stop_reason");
  }
  return absl::OkStatus();
}

void AnswerReader::ReadUsage(const Json& answer) {
  const Json* usage = FindKey(answer, "usage");
  if (usage == nullptr || !usage->is_object()) return;
  usage_told_ = true;
  usage_.prompt_tokens = Count(*usage, "prompt_tokens");
  usage_.completion_tokens = Count(*usage, "completion_tokens");
  const Json* details = FindKey(*usage, "prompt_tokens_details");
  if (details != nullptr) usage_.cached_prompt_tokens = Count(*details, "cached_tokens");
}

bool AnswerReader::complete() const {
  return begun_ == ended_ && std::find(ended_.begin(), ended_.end(), true) != ended_.end();
}

}  // namespace hostler
