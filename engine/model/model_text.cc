#include "engine/model/model_text.h"

#include <filesystem>
#include <optional>
#include <utility>

#include "engine/base/status.h"
#include "engine/model/config_reader.h"
#include "engine/text/vocabulary_tokenizer.h"
#include "engine/weights/packed.h"
#include "engine/weights/source.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;

// The special tokens' texts, which templates refer to by name.
absl::StatusOr<nlohmann::ordered_json> ReadTemplateVariables(const std::string& directory) {
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();
  const std::string file = (fs::path(directory) / "tokenizer_config.json").string();
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

// Reads "tokenizer.ggml." keys; the first problem stays in status.
class VocabularyReader {
 public:
  explicit VocabularyReader(const GgufMetadata& metadata) : metadata_(metadata) {}

  bool Has(const std::string& key) const { return metadata_.Has(kPrefix + key); }
  std::string String(const std::string& key) {
    return std::string(Take(metadata_.GetString(kPrefix + key, "")));
  }
  std::optional<int32_t> Id(const std::string& key) {
    if (!Has(key)) return std::nullopt;
    return static_cast<int32_t>(Take(metadata_.GetInt(kPrefix + key)));
  }
  std::optional<bool> Bool(const std::string& key) {
    if (!Has(key)) return std::nullopt;
    return Take(metadata_.GetBool(kPrefix + key));
  }
  std::vector<std::string> Strings(const std::string& key) {
    if (!Has(key)) return {};
    const std::span<const std::string> strings = Take(metadata_.GetStrings(kPrefix + key));
    return {strings.begin(), strings.end()};
  }
  template <typename T, typename Values>
  std::vector<T> Numbers(const std::string& key,
                         absl::StatusOr<Values> (GgufMetadata::*get)(std::string_view) const) {
    if (!Has(key)) return {};
    const Values values = Take((metadata_.*get)(kPrefix + key));
    return {values.begin(), values.end()};
  }

  absl::Status status;

 private:
  template <typename T>
  T Take(absl::StatusOr<T> value) {
    if (value.ok()) return *std::move(value);
    status.Update(value.status());
    return T{};
  }

  const std::string kPrefix = "tokenizer.ggml.";
  const GgufMetadata& metadata_;
};

absl::StatusOr<StoredVocabulary> ReadVocabulary(const GgufMetadata& metadata) {
  VocabularyReader reader(metadata);
  StoredVocabulary stored;
  stored.model = reader.String("model");
  stored.pre = reader.String("pre");
  stored.tokens = reader.Strings("tokens");
  stored.scores = reader.Numbers<float>("scores", &GgufMetadata::GetFloats);
  stored.types = reader.Numbers<int32_t>("token_type", &GgufMetadata::GetInts);
  stored.merges = reader.Strings("merges");
  stored.bos = reader.Id("bos_token_id");
  stored.eos = reader.Id("eos_token_id");
  stored.unk = reader.Id("unknown_token_id");
  stored.sep = reader.Id("seperator_token_id");
  stored.cls = reader.Id("cls_token_id");
  stored.add_bos = reader.Bool("add_bos_token");
  stored.add_eos = reader.Bool("add_eos_token");
  stored.add_sep = reader.Bool("add_sep_token");
  stored.add_space_prefix = reader.Bool("add_space_prefix").value_or(true);
  stored.remove_extra_whitespaces = reader.Bool("remove_extra_whitespaces").value_or(false);
  for (const int64_t byte :
       reader.Numbers<int64_t>("precompiled_charsmap", &GgufMetadata::GetInts)) {
    stored.precompiled_charsmap.push_back(static_cast<char>(byte));
  }
  HOSTLER_RETURN_IF_ERROR(reader.status);
  return stored;
}

}  // namespace

absl::StatusOr<ModelText> LoadHfText(const std::string& directory) {
  ModelText text;
  auto tokenizer = LoadHfTokenizer(directory);
  if (absl::IsNotFound(tokenizer.status())) return text;
  HOSTLER_RETURN_IF_ERROR(tokenizer.status());
  text.tokenizer = *std::move(tokenizer);
  HOSTLER_ASSIGN_OR_RETURN(const std::optional<std::string> source, ReadChatTemplate(directory));
  if (source.has_value()) {
    HOSTLER_ASSIGN_OR_RETURN(text.chat_template, ParseChatTemplate(*source));
  }
  HOSTLER_ASSIGN_OR_RETURN(text.template_variables, ReadTemplateVariables(directory));
  return text;
}

absl::StatusOr<ModelText> LoadGgufText(const GgufMetadata& metadata) {
  ModelText text;
  if (!metadata.Has("tokenizer.ggml.tokens")) return text;
  HOSTLER_ASSIGN_OR_RETURN(StoredVocabulary stored, ReadVocabulary(metadata));
  for (const auto& [name, id] :
       {std::pair{"bos_token", stored.bos}, std::pair{"eos_token", stored.eos},
        std::pair{"unk_token", stored.unk}}) {
    if (id.has_value() && *id >= 0 && size_t(*id) < stored.tokens.size()) {
      text.template_variables[name] = stored.tokens[*id];
    }
  }
  HOSTLER_ASSIGN_OR_RETURN(text.tokenizer, NewVocabularyTokenizer(std::move(stored)));
  if (!metadata.Has("tokenizer.chat_template")) return text;
  HOSTLER_ASSIGN_OR_RETURN(const std::string_view source,
                           metadata.GetString("tokenizer.chat_template"));
  HOSTLER_ASSIGN_OR_RETURN(text.chat_template, ParseChatTemplate(std::string(source)));
  return text;
}

absl::StatusOr<ModelText> LoadModelText(const std::string& path) {
  if (fs::exists(fs::path(path) / "tokenizer.json")) return LoadHfText(path);
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<WeightSource> source, OpenWeights(path));
  const auto* gguf = dynamic_cast<const GgufSource*>(source.get());
  const auto* packed = dynamic_cast<const PackedSource*>(source.get());
  const GgufMetadata* metadata = gguf != nullptr     ? &gguf->metadata()
                                 : packed != nullptr ? packed->gguf()
                                                     : nullptr;
  return metadata == nullptr ? LoadHfText(path) : LoadGgufText(*metadata);
}

}  // namespace hostler
