#include "engine/embed/encoder_config.h"

#include <filesystem>
#include <string_view>

#include "absl/status/status.h"
#include "engine/base/status.h"
#include "engine/model/config_reader.h"
#include "fmt/format.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;

constexpr int kMostWidth = 1 << 14;
constexpr int kMostLayers = 256;
constexpr int kMostVocabulary = 1 << 24;
constexpr int kMostPositions = 1 << 14;
constexpr int kLeastTokens = 3;  // [CLS], one, [SEP]

absl::Status RequireText(ConfigReader& reader, const std::string& path, std::string_view key,
                         std::string_view wanted) {
  const std::string value = reader.String(key, std::string(wanted));
  HOSTLER_RETURN_IF_ERROR(reader.status());
  if (value == wanted) return absl::OkStatus();
  return absl::UnimplementedError(
      fmt::format("{}: {} is \"{}\"; only \"{}\" is supported", path, key, value, wanted));
}

absl::StatusOr<EncoderConfig> ReadBertConfig(const fs::path& directory) {
  const std::string path = (directory / "config.json").string();
  HOSTLER_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJsonFile(path));
  ConfigReader reader(json, path);
  if (!reader.Has("model_type")) reader.Fail("model_type", "is missing");
  HOSTLER_RETURN_IF_ERROR(RequireText(reader, path, "model_type", "bert"));
  HOSTLER_RETURN_IF_ERROR(RequireText(reader, path, "hidden_act", "gelu"));
  HOSTLER_RETURN_IF_ERROR(RequireText(reader, path, "position_embedding_type", "absolute"));
  EncoderConfig config;
  config.width = reader.Int("hidden_size", 1, kMostWidth);
  config.layers = reader.Int("num_hidden_layers", 1, kMostLayers);
  config.heads = reader.Int("num_attention_heads", 1, kMostWidth);
  config.ffn = reader.Int("intermediate_size", 1, 8 * kMostWidth);
  config.vocabulary = reader.Int("vocab_size", 1, kMostVocabulary);
  config.positions = reader.Int("max_position_embeddings", kLeastTokens, kMostPositions);
  config.token_types = reader.Int("type_vocab_size", 1, kMostWidth, 2);
  const double epsilon = reader.Double("layer_norm_eps", 1e-12);
  if (!(epsilon >= 0 && epsilon < 1)) reader.Fail("layer_norm_eps", "must be from 0 to 1");
  if (config.width % config.heads != 0) {
    reader.Fail("num_attention_heads", fmt::format("is {}, which does not divide a width of {}",
                                                   config.heads, config.width));
  }
  HOSTLER_RETURN_IF_ERROR(reader.status());
  config.epsilon = static_cast<float>(epsilon);
  config.max_tokens = config.positions;
  return config;
}

// A file of sentence-transformers; an empty object where it is not there.
absl::StatusOr<nlohmann::json> ReadOptional(const fs::path& path) {
  auto json = ReadJsonFile(path.string());
  if (absl::IsNotFound(json.status())) return nlohmann::json::object();
  return json;
}

absl::Status ReadLength(const fs::path& path, EncoderConfig* config) {
  HOSTLER_ASSIGN_OR_RETURN(const nlohmann::json json, ReadOptional(path));
  ConfigReader reader(json, path.string());
  config->max_tokens =
      reader.Int("max_seq_length", kLeastTokens, config->positions, config->positions);
  // The tokenizer's own normalizer decides otherwise.
  if (reader.Bool("do_lower_case", false)) reader.Fail("do_lower_case", "must be false");
  return reader.status();
}

absl::Status CheckPooling(const fs::path& path) {
  HOSTLER_ASSIGN_OR_RETURN(const nlohmann::json json, ReadOptional(path));
  ConfigReader reader(json, path.string());
  bool others = false;
  for (const auto& [key, value] : json.items()) {
    const bool mode = key.starts_with("pooling_mode_") && key != "pooling_mode_mean_tokens";
    others = others || (mode && value.is_boolean() && value.get<bool>());
  }
  const bool mean = reader.Bool("pooling_mode_mean_tokens", true);
  HOSTLER_RETURN_IF_ERROR(reader.status());
  if (mean && !others) return absl::OkStatus();
  return absl::UnimplementedError(fmt::format(
      "{}: only the mean over all tokens (pooling_mode_mean_tokens) is supported", path.string()));
}

// Transformer, Pooling and Normalize, whose results are what we compute.
absl::Status CheckModules(const fs::path& path) {
  HOSTLER_ASSIGN_OR_RETURN(const nlohmann::json json, ReadOptional(path));
  if (json.is_object() && json.empty()) return absl::OkStatus();
  if (!json.is_array()) {
    return absl::InvalidArgumentError(fmt::format("{}: must be a list", path.string()));
  }
  constexpr std::string_view kPrefix = "sentence_transformers.models.";
  for (const nlohmann::json& module : json) {
    ConfigReader reader(module, path.string());
    const std::string type = reader.String("type", "");
    HOSTLER_RETURN_IF_ERROR(reader.status());
    const std::string name = type.starts_with(kPrefix) ? type.substr(kPrefix.size()) : "";
    if (name != "Transformer" && name != "Pooling" && name != "Normalize") {
      return absl::UnimplementedError(
          fmt::format("{}: module \"{}\" is not supported", path.string(), type));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<EncoderConfig> ReadEncoderConfig(const std::string& directory) {
  const fs::path path(directory);
  HOSTLER_ASSIGN_OR_RETURN(EncoderConfig config, ReadBertConfig(path));
  HOSTLER_RETURN_IF_ERROR(ReadLength(path / "sentence_bert_config.json", &config));
  HOSTLER_RETURN_IF_ERROR(CheckPooling(path / "1_Pooling" / "config.json"));
  HOSTLER_RETURN_IF_ERROR(CheckModules(path / "modules.json"));
  return config;
}

}  // namespace hostler
