// Between the messages of hostler.proto and the engine's own types.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine/request.h"
#include "engine/engine/stream.h"
#include "grpcpp/support/status.h"
#include "proto/hostler.pb.h"
#include "router/policy.h"

namespace hostler {

// Checks what OpenAI's fields of the same names are checked for. The id is
// for the caller to set. Errors: FieldErrors.
absl::StatusOr<GenerateRequest> FromProto(const v1::GenerateRequest& from);
absl::StatusOr<GenerateRequest> FromProto(const v1::TokenizeRequest& from);

// `event`'s text and tokens; its end is another message.
v1::GenerateResponse DeltaToProto(const GenerateEvent& event);
// REQUIRES: event.finish_reason
v1::GenerateResponse FinishedToProto(const GenerateEvent& event);
v1::GenerateResponse DoneToProto(const Usage& usage, const Timings& timings);
// Started's prompt_logprobs and prompt_tokens.
void PromptToProto(const PromptInfo& prompt, v1::Started* to);

// By the table in server/status_codes.h.
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace hostler
