// One row per architecture. A new one is a source file with a function of
// this type, and its line in registry.cc.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/compute/backend.h"
#include "engine/model/model.h"
#include "engine/weights/source.h"
#include "nlohmann/json.hpp"

namespace hostler {

struct ModelSource {
  std::string path;
  const nlohmann::json* config = nullptr;  // config.json
  const WeightSource* weights = nullptr;   // outlives the model
};

struct ModelOptions {
  bool quantize = false;  // matrices and experts to q8_0
};

struct Architecture {
  std::string_view name;        // config.json's model_type
  std::string_view class_name;  // in config.json's architectures

  // Fills in the sizes; reads no weights. Errors: InvalidArgument,
  // Unimplemented naming the key of the configuration that cannot be served.
  absl::Status (*describe)(const ModelSource& source, ModelInfo* info);
  absl::StatusOr<std::unique_ptr<Model>> (*create)(const ModelSource& source, const ModelInfo& info,
                                                   const ModelOptions& options, Backend* backend);
};

// Null when no row fits.
const Architecture* FindArchitecture(const nlohmann::json& config);

// "qwen3, qwen3_moe": for messages.
std::string ArchitectureNames();

// engine/model/qwen3.cc
extern const Architecture kQwen3;
extern const Architecture kQwen3Moe;

}  // namespace hostler
