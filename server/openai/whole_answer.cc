#include <iterator>
#include <utility>
#include <vector>

#include "engine/base/json.h"
#include "fmt/format.h"
#include "server/openai/answer.h"
#include "server/openai/logprobs.h"

namespace hostler {
namespace {

struct Choice {
  std::string text;
  CompletionLogprobs logprobs;
  std::string chat_logprobs;  // elements of "content"
  std::string finish_reason = "null";
  std::string stop_reason = "null";
};

class WholeAnswer : public Answer {
 public:
  WholeAnswer(AnswerHead head, const AnswerOptions& options, int prompts)
      : head_(std::move(head)),
        options_(options),
        choices_(size_t(prompts) * options.n),
        prompt_logprobs_(prompts) {}

  void Begin(int prompt, const PromptInfo& info, const PromptText& text, std::string*) override {
    if (options_.prompt_logprobs.has_value()) {
      AppendPromptLogprobs(info.logprobs, &prompt_logprobs_[prompt]);
    }
    if (!options_.echo) return;
    for (int i = 0; i < options_.n; ++i) {
      Choice& choice = choices_[prompt * options_.n + i];
      choice.text = text.text;
      if (!options_.logprobs.has_value()) continue;
      choice.logprobs.AddFirst(text.first_token);
      for (const PositionLogprobs& position : info.logprobs) choice.logprobs.Add(position);
    }
  }

  void Add(int prompt, const GenerateEvent& event, std::string*) override {
    Choice& choice = choices_[prompt * options_.n + event.index];
    if (event.finish_reason.has_value()) {
      choice.finish_reason = fmt::format("\"{}\"", FinishReasonName(*event.finish_reason));
      if (!event.stop_reason.empty()) {
        choice.stop_reason.clear();
        AppendJsonString(event.stop_reason, &choice.stop_reason);
      }
    }
    if (options_.echo_only) return;
    choice.text += event.text;
    if (!options_.logprobs.has_value()) return;
    for (const PositionLogprobs& position : event.logprobs) {
      if (options_.chat) {
        AppendChatLogprob(position, &choice.chat_logprobs);
      } else {
        choice.logprobs.Add(position);
      }
    }
  }

  void Finish(const Usage& usage, std::string* out) override {
    *out += "{\"id\":";
    AppendJsonString(head_.id, out);
    fmt::format_to(std::back_inserter(*out), R"(,"object":"{}","created":{},"model":)",
                   options_.chat ? "chat.completion" : "text_completion", head_.created);
    AppendJsonString(head_.model, out);
    *out += ",\"choices\":[";
    for (size_t i = 0; i < choices_.size(); ++i) {
      if (i > 0) out->push_back(',');
      AppendChoice(i, out);
    }
    *out += "],\"usage\":" + UsageJson(usage);
    if (options_.chat && options_.prompt_logprobs.has_value()) {
      *out += ",\"prompt_logprobs\":" + prompt_logprobs_[0];
    }
    out->push_back('}');
  }

 private:
  void AppendChoice(size_t index, std::string* out) const {
    const Choice& choice = choices_[index];
    fmt::format_to(std::back_inserter(*out), "{{\"index\":{},", index);
    if (options_.chat) {
      *out += "\"message\":{\"role\":\"assistant\",\"content\":";
      AppendJsonString(choice.text, out);
      *out += ",\"refusal\":null}";
    } else {
      *out += "\"text\":";
      AppendJsonString(choice.text, out);
    }
    *out += ",\"logprobs\":";
    if (!options_.logprobs.has_value()) {
      *out += "null";
    } else if (options_.chat) {
      *out += "{\"content\":[" + choice.chat_logprobs + "],\"refusal\":null}";
    } else {
      choice.logprobs.AppendTo(out);
    }
    *out += ",\"finish_reason\":" + choice.finish_reason + ",\"stop_reason\":" + choice.stop_reason;
    if (!options_.chat && options_.prompt_logprobs.has_value()) {
      *out += ",\"prompt_logprobs\":" + prompt_logprobs_[index / options_.n];
    }
    out->push_back('}');
  }

  const AnswerHead head_;
  const AnswerOptions options_;
  std::vector<Choice> choices_;               // prompt * n + i
  std::vector<std::string> prompt_logprobs_;  // JSON, of each prompt
};

}  // namespace

std::unique_ptr<Answer> NewWholeAnswer(AnswerHead head, const AnswerOptions& options, int prompts) {
  return std::make_unique<WholeAnswer>(std::move(head), options, prompts);
}

}  // namespace hostler
