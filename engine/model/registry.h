// The table of model architectures, and what can be told of a model before it
// is loaded.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/model_files.h"
#include "engine/model/model_info.h"

namespace hostler {

// What an opened model's configuration and tensor headers tell. A model that
// cannot be served is described as far as it goes, with
// ModelInfo::unsupported filled in.
ModelInfo DescribeModel(const std::string& path, const ModelFiles& files);

// The same for a path; reads configuration and tensor headers only. Errors: NotFound;
// InvalidArgument for a malformed configuration or file.
absl::StatusOr<ModelInfo> InspectModel(const std::string& path);

}  // namespace hostler
