// The table of model architectures, and what can be told of a model before it
// is loaded.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/model_info.h"

namespace hostler {

// Reads configuration and tensor headers only. A model that cannot be served
// is described as far as it goes, with ModelInfo::unsupported filled in.
// Errors: NotFound; InvalidArgument for a malformed configuration or file.
absl::StatusOr<ModelInfo> InspectModel(const std::string& path);

}  // namespace hostler
