// A Reader over io_uring(7).
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "cache/read_plan.h"
#include "cache/reader.h"
#include "cache/tier.h"

namespace hostler {

// As NewPreadReader; takes `files` and `bounce` only when it succeeds.
// Errors: Unimplemented where the kernel has no io_uring or forbids it.
absl::StatusOr<std::unique_ptr<Reader>> NewUringReader(OpenFiles& files,
                                                       std::unique_ptr<Tier>& bounce, int depth);

}  // namespace hostler
