#include "engine/model/loader.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/base/status.h"
#include "engine/model/config_reader.h"
#include "engine/model/gguf_model.h"
#include "engine/model/registry.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// "eos_token_id" is a number or a list of them; generation_config.json's
// counts before config.json's.
absl::StatusOr<std::vector<int32_t>> ReadEosIds(const nlohmann::json& generation,
                                                const nlohmann::json& config, int vocab) {
  for (const nlohmann::json* json : {&generation, &config}) {
    const nlohmann::json* value = ConfigReader(*json, "").Get("eos_token_id");
    if (value == nullptr) continue;
    std::vector<int32_t> ids;
    const nlohmann::json list = value->is_array() ? *value : nlohmann::json::array({*value});
    for (const nlohmann::json& id : list) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab) {
        return absl::InvalidArgumentError(
            fmt::format("eos_token_id {} is not a token of this model", id.dump()));
      }
      ids.push_back(id.get<int32_t>());
    }
    return ids;
  }
  return std::vector<int32_t>();
}

absl::StatusOr<GenerationDefaults> ReadDefaults(const nlohmann::json& generation) {
  ConfigReader reader(generation, "generation_config.json");
  GenerationDefaults defaults;
  const auto number = [&](const char* key, std::optional<double>* out) {
    if (reader.Has(key)) *out = reader.Double(key, 0);
  };
  number("temperature", &defaults.temperature);
  number("top_p", &defaults.top_p);
  number("min_p", &defaults.min_p);
  number("repetition_penalty", &defaults.repetition_penalty);
  if (reader.Has("top_k")) defaults.top_k = reader.Int("top_k", -1, 1 << 24);
  HOSTLER_RETURN_IF_ERROR(reader.status());
  return defaults;
}

// `file` is where the tokenizer was read from.
absl::Status CheckVocabulary(const std::string& file, const ModelText& text, int vocab) {
  if (text.tokenizer == nullptr || text.tokenizer->vocab_size() <= vocab) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{}: the tokenizer has ids up to {}, the model's vocabulary has {} tokens", file,
                  text.tokenizer->vocab_size() - 1, vocab));
}

absl::StatusOr<ModelFiles> OpenServable(const std::string& path, ModelInfo* info) {
  HOSTLER_ASSIGN_OR_RETURN(ModelFiles files, OpenModelFiles(path));
  *info = DescribeModel(path, files);
  if (!info->unsupported.empty()) {
    return absl::UnimplementedError(fmt::format("{}: cannot serve {}", path, info->unsupported[0]));
  }
  return files;
}

ModelOptions OptionsFor(const ModelFiles& files, ModelOptions options) {
  options.quantize = options.quantize || files.HoldsQuantized();
  return options;
}

// The decoder's error, of a model at `path`.
absl::Status OfModel(const absl::Status& error, const std::string& path, const ModelFiles& files) {
  const absl::Status status = files.gguf == nullptr ? error : InGgufTerms(error, *files.gguf);
  return absl::Status(status.code(), fmt::format("{}: {}", path, std::string(status.message())));
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const ModelOptions& options,
                                      std::unique_ptr<Backend> backend) {
  ModelInfo info;
  HOSTLER_ASSIGN_OR_RETURN(ModelFiles files, OpenServable(path, &info));
  HOSTLER_ASSIGN_OR_RETURN(info.eos_ids, ReadEosIds(files.generation, files.config, info.vocab));

  LoadedModel loaded;
  loaded.backend = std::move(backend);
  HOSTLER_ASSIGN_OR_RETURN(DecoderConfig decoder, files.Configure());
  auto model = NewDecoder(std::move(decoder), info, files.weights.get(), OptionsFor(files, options),
                          loaded.backend.get());
  if (!model.ok()) return OfModel(model.status(), path, files);
  loaded.model = *std::move(model);
  HOSTLER_ASSIGN_OR_RETURN(loaded.defaults, ReadDefaults(files.generation));
  HOSTLER_ASSIGN_OR_RETURN(loaded.text,
                           files.gguf == nullptr ? LoadHfText(path) : LoadGgufText(*files.gguf));
  HOSTLER_RETURN_IF_ERROR(CheckVocabulary(files.gguf == nullptr ? path + "/tokenizer.json" : path,
                                          loaded.text, info.vocab));
  loaded.weights = std::move(files.weights);
  return loaded;
}

absl::StatusOr<ModelSketch> SketchModel(const std::string& path, const ModelOptions& options,
                                        std::unique_ptr<Backend> backend) {
  ModelSketch sketch;
  sketch.backend = std::move(backend);
  HOSTLER_ASSIGN_OR_RETURN(ModelFiles files, OpenServable(path, &sketch.info));
  HOSTLER_ASSIGN_OR_RETURN(DecoderConfig decoder, files.Configure());
  auto sketched = SketchDecoder(std::move(decoder), sketch.info, files.weights.get(),
                                OptionsFor(files, options), sketch.backend.get());
  if (!sketched.ok()) return OfModel(sketched.status(), path, files);
  sketch.decoder = *std::move(sketched);
  sketch.weights = std::move(files.weights);
  return sketch;
}

absl::Status CheckModel(const std::string& path) {
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, NewCpuBackend(1));
  return LoadModel(path, ModelOptions{.quantize = false}, std::move(backend)).status();
}

}  // namespace hostler
