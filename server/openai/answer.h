// Answers to completions and chat requests, whole or as server-sent events.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engine/engine/request.h"
#include "server/openai/requests.h"

namespace hostler {

// What every object of an answer begins with.
struct AnswerHead {
  std::string id;
  std::string model;
  int64_t created = 0;  // seconds since 1970
};

// What an answer needs to know of a prompt besides the engine's PromptInfo.
// Only for AnswerOptions::echo.
struct PromptText {
  std::string text;
  std::string first_token;  // its bytes
};

// Writes one answer. Not thread-safe. A prompt's calls come in the order
// Begin, Add…; those of different prompts mix freely; Finish is the last.
// Text is appended to `out` as soon as the client may have it.
class Answer {
 public:
  virtual ~Answer() = default;
  // REQUIRES: 0 <= prompt < the number of prompts.
  virtual void Begin(int prompt, const PromptInfo& info, const PromptText& text,
                     std::string* out) = 0;
  virtual void Add(int prompt, const GenerateEvent& event, std::string* out) = 0;
  // `usage` is that of all prompts.
  virtual void Finish(const Usage& usage, std::string* out) = 0;
};

// One JSON object, written by Finish.
std::unique_ptr<Answer> NewWholeAnswer(AnswerHead head, const AnswerOptions& options, int prompts);

// Server-sent events, ending with "data: [DONE]".
std::unique_ptr<Answer> NewStreamedAnswer(AnswerHead head, const AnswerOptions& options,
                                          int prompts);

// What a stream ends with.
inline constexpr char kStreamEnd[] = "data: [DONE]\n\n";

// {"error":{"message":…,"type":…,"param":…,"code":…}}, or the body of the upstream
// whose error it is.
std::string ErrorBody(const absl::Status& status);

// The event that ends a stream whose request failed.
std::string ErrorEvent(const absl::Status& status);

// {"prompt_tokens":…,"completion_tokens":…,"total_tokens":…,…}.
std::string UsageJson(const Usage& usage);

}  // namespace hostler
