// Generation: one answer of the API under way, made of one Call for each of
// the request's prompts.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "server/http/reply.h"
#include "server/openai/answer.h"
#include "server/openai/requests.h"
#include "server/service.h"

namespace hostler {

// Used by one consumer, like Call. Destroying it cancels what still runs.
class Generation {
 public:
  // Starts every prompt, or none. `service` must outlive the result.
  // Errors: the service's.
  static absl::StatusOr<std::unique_ptr<Generation>> Start(Service* service, ApiRequest request,
                                                           const CallInfo& info);
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  const std::string& id() const { return id_; }
  // The answer comes as server-sent events, else as one JSON object.
  bool streamed() const { return streamed_; }
  // x-hostler-model, x-hostler-route and more of a virtual model's. Final once Advance
  // has appended something.
  Headers headers() const;

  // `callback` is called whenever Advance may have something new to do; see
  // GenerateStream::OnReady.
  void OnReady(std::function<void()> callback);

  // Appends to `out` what the client may have, stopping soon after `out` holds
  // `max_bytes` (call it again then). True when the request is over: status()
  // tells how, and if it failed nothing was appended for the failure.
  bool Advance(size_t max_bytes, std::string* out);
  const absl::Status& status() const { return status_; }

 private:
  struct Prompt {
    std::unique_ptr<Call> call;
    std::string text;  // as the client wrote it; kept for echo only
    bool is_text = false;
    bool begun = false;
    bool ended = false;
  };

  Generation(Service* service, const AnswerOptions& options);
  absl::Status StartPrompt(GenerateRequest request, const CallInfo& info);
  void Drain(int index, size_t max_bytes, std::string* out);
  void Write(int index, const GenerateEvent& event, std::string* out);
  PromptText EchoText(const Prompt& prompt) const;
  Answer& answer();
  void Explain(std::string* out) const;

  Service* const service_;
  const bool streamed_;
  const bool echo_;
  const bool echo_only_;
  std::string id_;
  std::vector<Prompt> prompts_;
  const AnswerOptions options_;
  bool explain_ = false;
  std::unique_ptr<Answer> answer_;  // made once it is known who answers
  // Events have brought an upstream's own JSON, which is written in place of answer_'s.
  bool passes_on_ = false;
  std::string whole_;    // that JSON, of an answer that is not streamed
  GenerateEvent event_;  // the last one that was read
  Usage usage_;
  absl::Status status_;
};

}  // namespace hostler
