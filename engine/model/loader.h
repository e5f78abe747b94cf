// Loads everything that belongs to a model: weights, graph, tokenizer, chat
// template, generation defaults.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/compute/backend.h"
#include "engine/model/architectures.h"
#include "engine/model/decoder.h"
#include "engine/model/model.h"
#include "engine/model/model_text.h"
#include "engine/weights/source.h"

namespace hostler {

// generation_config.json's sampling values; unset where it has none.
struct GenerationDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
};

// Members are destroyed from the last to the first: the model before the
// weights it views.
struct LoadedModel {
  std::unique_ptr<WeightSource> weights;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  ModelText text;
  GenerationDefaults defaults;
};

// Errors: NotFound, InvalidArgument and Unimplemented, naming the file and
// what is wrong with it. A tokenizer whose ids go beyond the model's
// vocabulary is refused.
absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const ModelOptions& options,
                                      std::unique_ptr<Backend> backend);

// A model's sizes, without its weights. Members as in LoadedModel.
struct ModelSketch {
  ModelInfo info;
  std::unique_ptr<WeightSource> weights;
  std::unique_ptr<Backend> backend;
  DecoderSketch decoder;
};

// Reads headers only; computes nothing with `backend`. Errors: as LoadModel's.
absl::StatusOr<ModelSketch> SketchModel(const std::string& path, const ModelOptions& options,
                                        std::unique_ptr<Backend> backend);

// Whether LoadModel would succeed, without converting any weight.
absl::Status CheckModel(const std::string& path);

}  // namespace hostler
