#include <charconv>
#include <utility>
#include <vector>

#include "engine/base/json.h"
#include "fmt/format.h"
#include "server/openai/answer.h"
#include "server/openai/logprobs.h"

namespace hostler {
namespace {

// Nearly all of a chunk is the same each time and is made once; a token costs
// a few appends.
class StreamedAnswer : public Answer {
 public:
  StreamedAnswer(AnswerHead head, const AnswerOptions& options, int prompts)
      : options_(options),
        prompt_tokens_(prompts),
        completion_tokens_(size_t(prompts) * options.n),
        logprobs_(size_t(prompts) * options.n) {
    start_ = "data: {\"id\":";
    AppendJsonString(head.id, &start_);
    start_ += fmt::format(R"(,"object":"{}","created":{},"model":)",
                          options.chat ? "chat.completion.chunk" : "text_completion", head.created);
    AppendJsonString(head.model, &start_);
    start_ += ",\"choices\":[";
    before_index_ = start_ + "{\"index\":";
    before_text_ = options.chat ? ",\"delta\":{\"content\":" : ",\"text\":";
    after_text_ = options.chat ? "},\"logprobs\":" : ",\"logprobs\":";
    end_ = options.include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n";
  }

  void Begin(int prompt, const PromptInfo& info, const PromptText& text,
             std::string* out) override {
    prompt_tokens_[prompt] = int(info.token_ids.size());
    for (int i = 0; i < options_.n; ++i) {
      const size_t choice = size_t(prompt) * options_.n + i;
      if (options_.chat) {
        AppendIndex(choice, out);
        *out +=
            ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
            "\"finish_reason\":null";
        AppendEnd(choice, out);
      } else if (options_.echo) {
        AppendEcho(choice, info, text, out);
      }
    }
  }

  void Add(int prompt, const GenerateEvent& event, std::string* out) override {
    const size_t choice = size_t(prompt) * options_.n + event.index;
    completion_tokens_[choice] += int(event.token_ids.size());
    const bool with_logprobs =
        options_.logprobs.has_value() && !event.logprobs.empty() && !options_.echo_only;
    const std::string_view text = options_.echo_only ? std::string_view() : event.text;
    if (text.empty() && !with_logprobs && !event.finish_reason.has_value()) return;
    AppendIndex(choice, out);
    if (options_.chat && text.empty() && !with_logprobs) {
      *out += ",\"delta\":{";
    } else {
      *out += before_text_;
      AppendJsonString(text, out);
    }
    *out += after_text_;
    if (with_logprobs) {
      AppendLogprobs(choice, event, out);
    } else {
      *out += "null";
    }
    AppendFinish(event, out);
    AppendEnd(choice, out);
  }

  void Finish(const Usage& usage, std::string* out) override {
    if (options_.include_usage) *out += start_ + "],\"usage\":" + UsageJson(usage) + "}\n\n";
    *out += kStreamEnd;
  }

 private:
  void AppendIndex(size_t choice, std::string* out) const {
    *out += before_index_;
    char digits[20];
    const auto end = std::to_chars(std::begin(digits), std::end(digits), choice);
    out->append(digits, end.ptr);
  }

  void AppendEnd(size_t choice, std::string* out) const {
    if (!options_.running_usage) {
      *out += end_;
      return;
    }
    const Usage usage = {.prompt_tokens = prompt_tokens_[choice / options_.n],
                         .completion_tokens = completion_tokens_[choice]};
    *out += "}],\"usage\":" + UsageJson(usage) + "}\n\n";
  }

  void AppendEcho(size_t choice, const PromptInfo& info, const PromptText& text, std::string* out) {
    AppendIndex(choice, out);
    *out += before_text_;
    AppendJsonString(text.text, out);
    *out += after_text_;
    if (options_.logprobs.has_value()) {
      logprobs_[choice].AddFirst(text.first_token);
      for (const PositionLogprobs& position : info.logprobs) logprobs_[choice].Add(position);
      TakeLogprobs(choice, out);
    } else {
      *out += "null";
    }
    *out += ",\"finish_reason\":null";
    AppendEnd(choice, out);
  }

  void AppendLogprobs(size_t choice, const GenerateEvent& event, std::string* out) {
    if (!options_.chat) {
      for (const PositionLogprobs& position : event.logprobs) logprobs_[choice].Add(position);
      return TakeLogprobs(choice, out);
    }
    std::string content;
    for (const PositionLogprobs& position : event.logprobs) AppendChatLogprob(position, &content);
    *out += "{\"content\":[" + content + "],\"refusal\":null}";
  }

  void TakeLogprobs(size_t choice, std::string* out) {
    logprobs_[choice].AppendTo(out);
    logprobs_[choice].Clear();
  }

  static void AppendFinish(const GenerateEvent& event, std::string* out) {
    if (!event.finish_reason.has_value()) {
      *out += ",\"finish_reason\":null";
      return;
    }
    *out += ",\"finish_reason\":\"";
    *out += FinishReasonName(*event.finish_reason);
    *out += "\",\"stop_reason\":";
    if (event.stop_reason.empty()) {
      *out += "null";
    } else {
      AppendJsonString(event.stop_reason, out);
    }
  }

  const AnswerOptions options_;
  std::string start_, before_index_, before_text_, after_text_, end_;
  std::vector<int> prompt_tokens_;            // of each prompt
  std::vector<int> completion_tokens_;        // of each choice, so far
  std::vector<CompletionLogprobs> logprobs_;  // of each choice, for the offsets
};

}  // namespace

std::unique_ptr<Answer> NewStreamedAnswer(AnswerHead head, const AnswerOptions& options,
                                          int prompts) {
  return std::make_unique<StreamedAnswer>(std::move(head), options, prompts);
}

}  // namespace hostler
