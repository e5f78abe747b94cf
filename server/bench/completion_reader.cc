#include "server/bench/completion_reader.h"

#include "nlohmann/json.hpp"

namespace hostler {
namespace {

using nlohmann::json;

std::optional<int> IntAt(const json& object, const char* key) {
  if (!object.is_object()) return std::nullopt;
  auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer()) return std::nullopt;
  return it->get<int>();
}

// Whether a choice brings tokens. A last event may have a finish reason only.
bool CarriesTokens(const json& choice) {
  if (!choice.is_object()) return false;
  auto text = choice.find("text");
  if (text != choice.end() && text->is_string() && !text->get_ref<const std::string&>().empty()) {
    return true;
  }
  auto reason = choice.find("finish_reason");
  return reason == choice.end() || reason->is_null();
}

std::string ErrorMessage(const json& error) {
  if (error.is_object() && error.contains("message") && error["message"].is_string()) {
    return error["message"].get<std::string>();
  }
  return error.dump();
}

}  // namespace

void CompletionReader::Add(std::string_view bytes, double now_s) {
  constexpr std::string_view kData = "data:";
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    line_ += bytes.substr(0, end);
    if (end == std::string_view::npos) return;
    bytes.remove_prefix(end + 1);
    std::string_view line = line_;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.starts_with(kData)) {
      line.remove_prefix(kData.size());
      if (line.starts_with(' ')) line.remove_prefix(1);
      AddData(line, now_s);
    }
    line_.clear();
  }
}

void CompletionReader::AddData(std::string_view data, double now_s) {
  if (data == "[DONE]") {
    done_ = true;
    return;
  }
  const json event = json::parse(data, nullptr, /*allow_exceptions=*/false);
  if (!event.is_object()) {
    error_ = "an event is not a JSON object";
    return;
  }
  if (auto error = event.find("error"); error != event.end() && !error->is_null()) {
    error_ = ErrorMessage(*error);
    return;
  }
  if (auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
    completion_tokens_ = IntAt(*usage, "completion_tokens");
    outcome_->prompt_tokens = IntAt(*usage, "prompt_tokens").value_or(outcome_->prompt_tokens);
    if (auto details = usage->find("prompt_tokens_details"); details != usage->end()) {
      outcome_->cached_prompt_tokens = IntAt(*details, "cached_tokens").value_or(0);
    }
  }
  auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array() || choices->empty()) return;
  if (!CarriesTokens(choices->front())) return;
  if (token_events_++ == 0) {
    outcome_->first_token_s = now_s;
  } else {
    outcome_->gaps_s.push_back(static_cast<float>(now_s - last_s_));
  }
  last_s_ = now_s;
}

void CompletionReader::Finish(int wanted, double now_s) {
  outcome_->output_tokens = completion_tokens_.value_or(token_events_);
  // The end is the last token: what follows it (usage, [DONE]) is no latency.
  outcome_->end_s = token_events_ > 0 ? last_s_ : now_s;
  outcome_->short_answer = outcome_->output_tokens < wanted;
  if (!error_.empty()) {
    outcome_->failure = "error in the stream";
    outcome_->detail = error_;
  } else if (!done_) {
    outcome_->failure = "stream ended early";
  } else if (token_events_ == 0) {
    outcome_->failure = "no tokens";
  } else {
    outcome_->ok = true;
  }
}

}  // namespace hostler
