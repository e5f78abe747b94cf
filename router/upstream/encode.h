// A request in the form that an upstream takes.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/engine/request.h"
#include "router/upstream_body.h"

namespace hostler {

struct EncodedRequest {
  std::string endpoint;  // behind the API's base: "/chat/completions"
  std::string body;      // JSON
  bool chat = false;
  bool stream = false;
  // The chunk with the usage is for us alone.
  bool hide_usage = false;
  // The answer's JSON goes to the client as it is.
  bool pass_through = false;
};

// The client's own JSON, if there is one, with `model` in it and the usage asked
// for; else JSON made of the request's fields. Errors: FieldErrors for what
// cannot be said in it.
absl::StatusOr<EncodedRequest> EncodeRequest(const GenerateRequest& request,
                                             const std::string& model);

}  // namespace hostler
