#include "server/http/generation.h"

#include <chrono>
#include <cmath>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/route_wish.h"
#include "server/route_report.h"

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
      id_(Service::NewId(options.chat ? "chatcmpl-" : "cmpl-")),
      options_(options) {}

Generation::~Generation() { OnReady(nullptr); }

absl::StatusOr<std::unique_ptr<Generation>> Generation::Start(Service* service, ApiRequest request,
                                                              const CallInfo& info) {
  std::unique_ptr<Generation> result(new Generation(service, request.answer));
  const auto& wish = request.requests.front().route;
  result->explain_ = wish != nullptr && wish->explain;
  for (GenerateRequest& each : request.requests) {
    HOSTLER_RETURN_IF_ERROR(result->StartPrompt(std::move(each), info));
  }
  return result;
}

Headers Generation::headers() const {
  const Call& call = *prompts_.front().call;
  const Decision& decision = call.decision();
  Headers headers = {{"x-hostler-model", call.target()}, {"x-hostler-route", decision.reason}};
  const CandidateReport* report = decision.Find(call.target());
  if (report == nullptr) return headers;
  const auto add = [&](const char* name, double value) {
    if (std::isfinite(value)) headers.emplace_back(name, fmt::format("{:.4g}", value));
  };
  headers.emplace_back("x-hostler-policy", fmt::format("{}/{}", decision.policy, decision.rule));
  add("x-hostler-quality", report->quality);
  add("x-hostler-cost-usd", report->cost_usd);
  add("x-hostler-latency-s", report->latency_s);
  return headers;
}

Answer& Generation::answer() {
  if (answer_ == nullptr) {
    AnswerHead head{id_, prompts_.front().call->target(), SecondsSinceEpoch()};
    const int prompts = int(prompts_.size());
    answer_ = options_.stream ? NewStreamedAnswer(std::move(head), options_, prompts)
                              : NewWholeAnswer(std::move(head), options_, prompts);
  }
  return *answer_;
}

// Adds "hostler" to a whole answer, or a last chunk with it to a stream.
void Generation::Explain(std::string* out) const {
  const Call& call = *prompts_.front().call;
  const std::string text = ExplanationText(call.decision(), call.outcome());
  if (streamed_) {
    *out +=
        fmt::format("data: {{\"id\":\"{}\",\"object\":\"{}\",\"choices\":[],\"hostler\":{}}}\n\n",
                    id_, options_.chat ? "chat.completion.chunk" : "text_completion", text);
    return;
  }
  const size_t end = out->rfind('}');
  if (end != out->npos) out->insert(end, fmt::format(",\"hostler\":{}", text));
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
  const absl::StatusOr<Engine*> engine = service_->EngineFor(prompt.call->target());
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
    answer().Begin(index, prompt.call->prompt(), EchoText(prompt), out);
  }
  answer().Add(index, event, out);
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
  if (echo_only_) usage_.completion_tokens = 0;
  if (passes_on_ && !streamed_) {
    *out += whole_;
  } else if (!passes_on_ && !streamed_) {
    answer().Finish(usage_, out);
  }
  if (explain_) Explain(out);
  if (passes_on_ && streamed_) {
    *out += kStreamEnd;
  } else if (streamed_) {
    answer().Finish(usage_, out);
  }
  return true;
}

}  // namespace hostler
