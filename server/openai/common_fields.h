// The fields that completions and chat have in common.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/base/json.h"
#include "engine/engine/request.h"
#include "server/openai/fields.h"
#include "server/openai/requests.h"

namespace hostler {

// Most likely tokens a client may ask for at each position.
inline constexpr int kMaxLogprobs = 20;

// A body that must be a JSON object.
absl::StatusOr<Json> ParseBody(std::string_view body);

// Sampling, limits, stops, n, stream and prompt_logprobs; refuses what neither
// endpoint supports.
void ReadCommonFields(FieldReader* fields, GenerateRequest* request, AnswerOptions* answer);

// `explain`, `hostler` (bounds of routing) and `user`; sets request->route where one
// is there.
void ReadRouteWish(FieldReader* fields, GenerateRequest* request);

// A field that is understood and cannot be honoured.
struct UnsupportedField {
  std::string_view name;
  // Whether this value asks for nothing, so that it may be ignored.
  bool (*harmless)(const Json& value);
  std::string_view message;
};

// False, empty text, empty container.
bool IsEmptyOrFalse(const Json& value);
// No value at all is harmless.
bool NeverHarmless(const Json& value);

void RefuseUnsupported(FieldReader* fields, const UnsupportedField* begin,
                       const UnsupportedField* end);

// The chat template's input; shared by chat and /tokenize.
void ReadChatPrompt(FieldReader* fields, ChatPrompt* prompt);

}  // namespace hostler
