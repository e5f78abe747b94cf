// What lies at a model's path, in one form whatever the file format.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/decoder.h"
#include "engine/weights/gguf.h"
#include "engine/weights/packed.h"
#include "engine/weights/source.h"
#include "nlohmann/json.hpp"

namespace hostler {

struct ModelFiles {
  std::unique_ptr<WeightSource> weights;
  nlohmann::json config;                 // Hugging Face's config.json, or made from GGUF metadata
  nlohmann::json generation;             // generation_config.json, or {}
  const GgufMetadata* gguf = nullptr;    // of a model that was GGUF; owned by `weights`
  const PackedSource* packed = nullptr;  // `weights`, when it is a packed store

  // Whether what the model rearranges while loading is to be held in q8_0, as
  // its matrices are: a store packed as q8 or q4.
  bool HoldsQuantized() const;

  // The decoder that the configuration describes. Errors: Unimplemented
  // naming an unknown architecture; the family's.
  absl::StatusOr<DecoderConfig> Configure() const;
};

// Errors: NotFound, InvalidArgument, Unimplemented.
absl::StatusOr<ModelFiles> OpenModelFiles(const std::string& path);

}  // namespace hostler
