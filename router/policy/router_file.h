// Router files, as `hostler route train` writes them.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "router/policy/quality_source.h"

namespace hostler {

// Errors: those of reading it.
absl::StatusOr<std::shared_ptr<const QualitySource>> LoadRouterFile(const std::string& path);

}  // namespace hostler
