// A Reader of threads that wait in pread(2), for kernels without io_uring.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "cache/read_plan.h"
#include "cache/reader.h"
#include "cache/tier.h"

namespace hostler {

// `bounce` has a slot for each of `depth` reads. Errors: ResourceExhausted.
absl::StatusOr<std::unique_ptr<Reader>> NewPreadReader(OpenFiles files,
                                                       std::unique_ptr<Tier> bounce, int depth);

}  // namespace hostler
