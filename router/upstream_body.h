// UpstreamBody: what a client sent to an endpoint of OpenAI's API, kept so that
// an upstream gets it unchanged.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace hostler {

struct UpstreamBody {
  std::string endpoint;        // behind the API's base: "/chat/completions" or "/completions"
  std::string json;            // the client's body; an object, checked by ParseJson
  bool stream = false;         // the client wants server-sent events
  bool include_usage = false;  // ... and the chunk with the usage
  // The client's Authorization header, ""; given on only by an upstream that is
  // configured so.
  std::string authorization;
  // Not OK: why no engine of this server can answer it (a field that none
  // supports); upstreams may. A policy leaves local targets out then.
  absl::Status engine_error;
};

}  // namespace hostler
