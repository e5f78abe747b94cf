#include "server/http/generation.h"

#include <chrono>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

int64_t SecondsSinceEpoch() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Generation::Generation(Service* service, const AnswerOptions& options)
    : service_(service),
      streamed_(options.stream),
      echo_(options.echo),
      echo_only_(options.echo_only),
      id_(Service::NewId(options.chat ? "chatcmpl-" : "cmpl-")) {}

Generation::~Generation() { OnReady(nullptr); }

absl::StatusOr<std::unique_ptr<Generation>> Generation::Start(Service* service, ApiRequest request,
                                                              const CallInfo& info) {
  std::unique_ptr<Generation> result(new Generation(service, request.answer));
  for (GenerateRequest& each : request.requests) {
    HOSTLER_RETURN_IF_ERROR(result->StartPrompt(std::move(each), info));
  }
  const Decision& decision = result->prompts_.front().call->decision();
  result->headers_ = {{"x-hostler-model", decision.target}, {"x-hostler-route", decision.reason}};
  AnswerHead head{result->id_, decision.target, SecondsSinceEpoch()};
  const int prompts = int(result->prompts_.size());
  result->answer_ = request.answer.stream
                        ? NewStreamedAnswer(std::move(head), request.answer, prompts)
                        : NewWholeAnswer(std::move(head), request.answer, prompts);
  return result;
}

absl::Status Generation::StartPrompt(GenerateRequest request, const CallInfo& info) {
  request.id = prompts_.empty() ? id_ : fmt::format("{}-{}", id_, prompts_.size());
  Prompt prompt;
  if (echo_) {
    if (const auto* text = std::get_if<std::string>(&request.prompt)) {
      prompt.text = *text;
      prompt.is_text = true;
    }
  }
  HOSTLER_ASSIGN_OR_RETURN(prompt.call, service_->Start(std::move(request), info));
  if (echo_) {
    // Only an engine of this process can say what its tokens mean.
    HOSTLER_RETURN_IF_ERROR(service_->EngineFor(prompt.call->decision().target).status());
  }
  prompts_.push_back(std::move(prompt));
  return absl::OkStatus();
}

void Generation::OnReady(std::function<void()> callback) {
  for (Prompt& prompt : prompts_) prompt.call->OnReady(callback);
}

PromptText Generation::EchoText(const Prompt& prompt) const {
  PromptText text;
  if (!echo_) return text;
  text.text = prompt.text;
  const absl::StatusOr<Engine*> engine = service_->EngineFor(prompt.call->decision().target);
  const Tokenizer* tokenizer = engine.ok() ? (*engine)->tokenizer() : nullptr;
  const std::vector<int32_t>& ids = prompt.call->prompt().token_ids;
  if (tokenizer == nullptr || ids.empty()) return text;
  text.first_token = tokenizer->TokenBytes(ids.front());
  if (!prompt.is_text) text.text = tokenizer->Decode(ids, /*skip_special=*/false);
  return text;
}

void Generation::Write(int index, const GenerateEvent& event, std::string* out) {
  // The answers of several prompts have to be made one.
  if (!event.wire.empty() && prompts_.size() == 1) {
    passes_on_ = true;
    if (streamed_) {
      *out += "data: " + event.wire + "\n\n";
    } else {
      whole_ = event.wire;  // not before it is known that all went well
    }
  }
  if (passes_on_) return;
  Prompt& prompt = prompts_[index];
  if (!prompt.begun) {
    prompt.begun = true;
    answer_->Begin(index, prompt.call->prompt(), EchoText(prompt), out);
  }
  answer_->Add(index, event, out);
}

void Generation::Drain(int index, size_t max_bytes, std::string* out) {
  Prompt& prompt = prompts_[index];
  while (out->size() < max_bytes) {
    if (!prompt.call->TryPop(&event_)) break;
    Write(index, event_, out);
  }
  prompt.ended = prompt.call->ended();
  if (!prompt.ended) return;
  if (status_.ok()) status_ = prompt.call->status();
  const Usage usage = prompt.call->usage();
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.cached_prompt_tokens += usage.cached_prompt_tokens;
  usage_.completion_tokens += usage.completion_tokens;
}

bool Generation::Advance(size_t max_bytes, std::string* out) {
  bool all_ended = true;
  for (size_t i = 0; i < prompts_.size(); ++i) {
    if (!prompts_[i].ended) Drain(int(i), max_bytes, out);
    if (!status_.ok()) return true;
    all_ended &= prompts_[i].ended;
  }
  if (!all_ended) return false;
  if (passes_on_) {
    *out += streamed_ ? kStreamEnd : whole_;
    return true;
  }
  if (echo_only_) usage_.completion_tokens = 0;
  answer_->Finish(usage_, out);
  return true;
}

}  // namespace hostler
