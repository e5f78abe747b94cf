// Requests of OpenAI's API, with vLLM's additions, as GenerateRequests.
//
// Known fields are checked for type and range; unknown ones are ignored. A
// field that is known but not supported is refused if its value would change
// the answer. All errors are InvalidArgument; a FieldError where a field is at
// fault.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine/request.h"

namespace hostler {

// What a request says about the form of its answer.
struct AnswerOptions {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;  // of a stream: a last chunk with the usage
  bool running_usage = false;  // ... and each chunk with the usage so far
  int n = 1;                   // choices of each prompt
  bool echo = false;           // completions: the prompt stands before the text
  bool echo_only = false;      // ... and nothing after it (max_tokens 0)
  std::optional<int> logprobs = std::nullopt;
  std::optional<int> prompt_logprobs = std::nullopt;  // as the client asked, echo aside
};

// A completions request may bring several prompts: one GenerateRequest each.
// Their ids are for the caller to set.
struct ApiRequest {
  std::vector<GenerateRequest> requests;
  AnswerOptions answer;
};

absl::StatusOr<ApiRequest> ParseCompletionRequest(std::string_view body);
absl::StatusOr<ApiRequest> ParseChatRequest(std::string_view body);

// The same for an upstream, which judges by itself what it can do: only what
// routing and the form of the answer need is read, all else is let be. One request,
// whatever the number of prompts: `n` is that of all choices.
absl::StatusOr<ApiRequest> ParseCompletionForUpstream(std::string_view body);
absl::StatusOr<ApiRequest> ParseChatForUpstream(std::string_view body);

// POST /tokenize: a text or messages.
absl::StatusOr<GenerateRequest> ParseTokenizeRequest(std::string_view body);

// POST /detokenize.
struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;
};
absl::StatusOr<DetokenizeRequest> ParseDetokenizeRequest(std::string_view body);

}  // namespace hostler
