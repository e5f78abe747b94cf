// A GGUF file seen as a Hugging Face model: its metadata as a config.json, its
// tensors under the names that the decoder binds.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/decoder.h"
#include "engine/weights/gguf.h"
#include "nlohmann/json.hpp"

namespace hostler {

// Errors: Unimplemented naming an architecture that is not read from GGUF, or a
// key or tensor of it that would change what is computed and is not known; the
// metadata getters'.
absl::StatusOr<nlohmann::json> GgufConfig(const GgufSource& gguf);

// An error about what was made of a GGUF file, naming the file's key or tensor
// instead of config.json's key or the decoder's tensor.
absl::Status InGgufTerms(const absl::Status& status, const GgufMetadata& metadata);

// The same tensors, renamed. Keeps `gguf`.
std::unique_ptr<WeightSource> RenameGgufTensors(std::unique_ptr<GgufSource> gguf);

// Changes what a family's configuration says of tensor names to where
// RenameGgufTensors puts them, and experts to GGUF's stacked form.
void AdaptToGguf(DecoderConfig* config);

}  // namespace hostler
