#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <variant>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "server/openai/common_fields.h"
#include "server/openai/requests.h"

namespace hostler {
namespace {

using Prompt = std::variant<std::string, TokenPrompt, ChatPrompt>;

constexpr int kMaxInt = std::numeric_limits<int>::max();
constexpr int kDefaultMaxTokens = 16;  // OpenAI's
constexpr size_t kMaxPrompts = 2048;

constexpr char kPromptForms[] =
    "must be a string, an array of strings, an array of token ids or an array of those";

constexpr UnsupportedField kUnsupported[] = {
    {"suffix", IsEmptyOrFalse, "is not supported"},
    {"prompt_embeds", NeverHarmless, "is not supported"},
};

absl::StatusOr<Prompt> ReadTokenPrompt(const Json& array, const std::string& path) {
  if (array.empty()) return FieldError(path, "must not be empty");
  HOSTLER_ASSIGN_OR_RETURN(TokenPrompt tokens, ToTokens(array, path));
  return Prompt(std::move(tokens));
}

absl::StatusOr<std::vector<Prompt>> ReadPrompts(const Json& value) {
  std::vector<Prompt> prompts;
  if (value.is_string()) {
    prompts.emplace_back(value.get_ref<const std::string&>());
    return prompts;
  }
  if (!value.is_array()) return FieldError("prompt", kPromptForms);
  if (value.empty()) return FieldError("prompt", "must not be empty");
  if (value[0].is_number()) {
    HOSTLER_ASSIGN_OR_RETURN(Prompt prompt, ReadTokenPrompt(value, "prompt"));
    prompts.push_back(std::move(prompt));
    return prompts;
  }
  if (value.size() > kMaxPrompts) {
    return FieldError("prompt", fmt::format("must have at most {} entries", kMaxPrompts));
  }
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string path = fmt::format("prompt[{}]", i);
    if (value[i].type() != value[0].type()) {
      return FieldError(path, fmt::format("must be {} like the first", JsonTypeName(value[0])));
    }
    if (value[i].is_string()) {
      prompts.emplace_back(value[i].get_ref<const std::string&>());
    } else if (value[i].is_array()) {
      HOSTLER_ASSIGN_OR_RETURN(Prompt prompt, ReadTokenPrompt(value[i], path));
      prompts.push_back(std::move(prompt));
    } else {
      return FieldError("prompt", kPromptForms);
    }
  }
  return prompts;
}

void ReadMaxTokens(FieldReader* fields, const Json& body, GenerateRequest* request,
                   AnswerOptions* answer) {
  // An explicit null means "as many as the context takes".
  if (FindKey(body, "max_tokens") == nullptr) request->max_tokens = kDefaultMaxTokens;
  fields->ReadInt("max_tokens", answer->echo ? 0 : 1, kMaxInt, &request->max_tokens);
  if (request->max_tokens == 0) {
    // The prompt alone is wanted; a token must be made to run it.
    answer->echo_only = true;
    request->max_tokens = 1;
  }
  if (request->max_tokens.has_value() && request->min_tokens > *request->max_tokens) {
    fields->Fail("min_tokens", "must not be larger than max_tokens");
  }
}

void RefuseBestOf(FieldReader* fields, int n) {
  int best_of = n;
  fields->ReadInt("best_of", 1, kMaxInt, &best_of);
  if (best_of < n) fields->Fail("best_of", "must not be smaller than n");
  if (best_of > n) fields->Fail("best_of", "more candidates than n are not supported");
}

}  // namespace

absl::StatusOr<ApiRequest> ParseCompletionRequest(std::string_view body) {
  HOSTLER_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  FieldReader fields(json, "");
  GenerateRequest request;
  ApiRequest result;
  AnswerOptions& answer = result.answer;
  ReadCommonFields(&fields, &request, &answer);
  fields.Read("echo", &answer.echo);
  fields.Read("add_special_tokens", &request.add_special_tokens);
  ReadMaxTokens(&fields, json, &request, &answer);
  RefuseBestOf(&fields, answer.n);
  fields.ReadInt("logprobs", 0, kMaxLogprobs, &answer.logprobs);
  request.logprobs = answer.logprobs;
  if (answer.echo && answer.logprobs.has_value() && !request.prompt_logprobs.has_value()) {
    request.prompt_logprobs = answer.logprobs;
  }
  RefuseUnsupported(&fields, std::begin(kUnsupported), std::end(kUnsupported));
  HOSTLER_RETURN_IF_ERROR(fields.status());

  const Json* prompt = fields.Find("prompt");
  if (prompt == nullptr) return FieldError("prompt", "is required");
  HOSTLER_ASSIGN_OR_RETURN(std::vector<Prompt> prompts, ReadPrompts(*prompt));
  for (Prompt& each : prompts) {
    result.requests.push_back(request);
    result.requests.back().prompt = std::move(each);
  }
  return result;
}

}  // namespace hostler
