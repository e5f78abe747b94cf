#include "engine/model/loader.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "engine/base/status.h"
#include "engine/model/config_reader.h"
#include "engine/model/registry.h"
#include "fmt/format.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;

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

// The special tokens' texts, which templates refer to by name.
absl::StatusOr<nlohmann::ordered_json> ReadTemplateVariables(const std::string& path) {
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();
  const std::string file = (fs::path(path) / "tokenizer_config.json").string();
  if (!fs::exists(file)) return variables;
  HOSTLER_ASSIGN_OR_RETURN(const nlohmann::json config, ReadJsonFile(file));
  for (const char* key : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    const nlohmann::json* value = ConfigReader(config, file).Get(key);
    if (value == nullptr) continue;
    const nlohmann::json* text =
        value->is_object() ? ConfigReader(*value, key).Get("content") : value;
    if (text != nullptr && text->is_string()) variables[key] = text->get<std::string>();
  }
  return variables;
}

absl::Status LoadText(const std::string& path, LoadedModel* loaded) {
  auto tokenizer = LoadHfTokenizer(path);
  if (absl::IsNotFound(tokenizer.status())) return absl::OkStatus();
  HOSTLER_RETURN_IF_ERROR(tokenizer.status());
  loaded->tokenizer = *std::move(tokenizer);
  const int vocab = loaded->model->info().vocab;
  if (loaded->tokenizer->vocab_size() > vocab) {
    return absl::InvalidArgumentError(
        fmt::format("{}: tokenizer.json has ids up to {}, the model's vocabulary has {} tokens",
                    path, loaded->tokenizer->vocab_size() - 1, vocab));
  }
  HOSTLER_ASSIGN_OR_RETURN(const std::optional<std::string> source, ReadChatTemplate(path));
  if (source.has_value()) {
    HOSTLER_ASSIGN_OR_RETURN(loaded->chat_template, ParseChatTemplate(*source));
  }
  HOSTLER_ASSIGN_OR_RETURN(loaded->template_variables, ReadTemplateVariables(path));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const ModelOptions& options,
                                      std::unique_ptr<Backend> backend) {
  HOSTLER_ASSIGN_OR_RETURN(ModelFiles files, OpenModelFiles(path));
  ModelInfo info = DescribeModel(path, files);
  if (!info.unsupported.empty()) {
    return absl::UnimplementedError(fmt::format("{}: cannot serve {}", path, info.unsupported[0]));
  }
  HOSTLER_ASSIGN_OR_RETURN(info.eos_ids, ReadEosIds(files.generation, files.config, info.vocab));

  LoadedModel loaded;
  loaded.backend = std::move(backend);
  HOSTLER_ASSIGN_OR_RETURN(DecoderConfig decoder, files.Configure());
  auto model =
      NewDecoder(std::move(decoder), info, files.weights.get(), options, loaded.backend.get());
  if (!model.ok()) {
    return absl::Status(model.status().code(),
                        fmt::format("{}: {}", path, std::string(model.status().message())));
  }
  loaded.model = *std::move(model);
  HOSTLER_ASSIGN_OR_RETURN(loaded.defaults, ReadDefaults(files.generation));
  if (files.gguf == nullptr) HOSTLER_RETURN_IF_ERROR(LoadText(path, &loaded));
  loaded.weights = std::move(files.weights);
  return loaded;
}

absl::Status CheckModel(const std::string& path) {
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, NewCpuBackend(1));
  return LoadModel(path, ModelOptions{.quantize = false}, std::move(backend)).status();
}

}  // namespace hostler
