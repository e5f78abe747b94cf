// A Target that runs requests on an OpenAI-compatible server: vLLM, SGLang,
// llama-server, a cloud API.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "router/target.h"
#include "router/upstream/io.h"
#include "router/upstream/options.h"

namespace hostler {

// Whether NewUpstreamTarget would take them: the URL, the key's file or
// variable, the authorities. Nothing is connected. Errors: InvalidArgument
// that begins with the key at fault and never shows a secret.
absl::Status CheckUpstream(const UpstreamOptions& options);

// Its errors, besides those of Target::Submit: Unavailable at once while it is
// ejected, ResourceExhausted when too many wait. Destroying it cancels what runs.
absl::StatusOr<std::unique_ptr<Target>> NewUpstreamTarget(UpstreamOptions options,
                                                          std::shared_ptr<UpstreamIo> io);

}  // namespace hostler
