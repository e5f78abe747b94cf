#include "engine/text/hf_tokenizer.h"

#include <unordered_set>
#include <utility>

#include "engine/base/status.h"
#include "engine/text/hf_models.h"
#include "engine/text/json_fields.h"
#include "engine/text/pipeline_tokenizer.h"
#include "engine/text/post_processor.h"
#include "engine/text/tokenizer.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using nlohmann::json;
absl::StatusOr<AddedToken> ReadAddedToken(const json& spec, const json& id) {
  AddedToken token;
  HOSTLER_ASSIGN_OR_RETURN(token.content, StringField(spec, "content", "added token"));
  const std::string where = fmt::format("added token '{}'", token.content);
  HOSTLER_ASSIGN_OR_RETURN(token.id, TokenId(id, where));
  HOSTLER_ASSIGN_OR_RETURN(token.special, BoolField(spec, "special", where, false));
  HOSTLER_ASSIGN_OR_RETURN(token.normalized, BoolField(spec, "normalized", where, !token.special));
  HOSTLER_ASSIGN_OR_RETURN(token.single_word, BoolField(spec, "single_word", where, false));
  HOSTLER_ASSIGN_OR_RETURN(token.lstrip, BoolField(spec, "lstrip", where, false));
  HOSTLER_ASSIGN_OR_RETURN(token.rstrip, BoolField(spec, "rstrip", where, false));
  return token;
}

bool Known(const TokenizerParts& parts, const AddedToken& token) {
  return parts.vocabulary->Has(token.id) || parts.extra.Has(token.id) ||
         parts.vocabulary->Find(token.content) || parts.extra.Find(token.content);
}

// The model's vocabulary may hold the token already, under the same id.
absl::Status AddToken(AddedToken token, TokenizerParts* parts) {
  const Vocabulary& own = *parts->vocabulary;
  const std::optional<int32_t> own_id = own.Find(token.content);
  if (own_id.has_value() && *own_id != token.id) {
    return absl::InvalidArgumentError(
        fmt::format("added token '{}' has both id {} and id {}", token.content, *own_id, token.id));
  }
  if (!own_id.has_value() && own.Has(token.id)) {
    return absl::InvalidArgumentError(
        fmt::format("added token: id {} belongs to both '{}' and '{}'", token.id,
                    own.Text(token.id), token.content));
  }
  if (!own_id.has_value()) {
    HOSTLER_RETURN_IF_ERROR(parts->extra.Add(token.content, token.id));
  }
  parts->added.push_back(std::move(token));
  return absl::OkStatus();
}

absl::Status AddTokens(const json& file, const json& config, TokenizerParts* parts) {
  const json& list = FieldOrNull(file, "added_tokens");
  if (!list.is_null() && !list.is_array()) {
    return absl::InvalidArgumentError(
        fmt::format("'added_tokens' must be an array, not {}", list.type_name()));
  }
  for (const json& spec : list) {
    HOSTLER_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(spec, FieldOrNull(spec, "id")));
    HOSTLER_RETURN_IF_ERROR(AddToken(std::move(token), parts));
  }
  // The configuration repeats them, and at times has more.
  const json& decoder = FieldOrNull(config, "added_tokens_decoder");
  if (!decoder.is_object()) return absl::OkStatus();
  for (const auto& [key, spec] : decoder.items()) {
    HOSTLER_ASSIGN_OR_RETURN(
        AddedToken token,
        ReadAddedToken(spec, json::parse(key, nullptr, /*allow_exceptions=*/false)));
    if (Known(*parts, token)) continue;
    HOSTLER_RETURN_IF_ERROR(AddToken(std::move(token), parts));
  }
  return absl::OkStatus();
}

// "<s>", {"content": "<s>"} or null.
std::optional<int32_t> ConfiguredToken(const json& config, std::string_view field,
                                       const TokenizerParts& parts) {
  const json* value = &FieldOrNull(config, field);
  if (value->is_object()) value = &FieldOrNull(*value, "content");
  if (!value->is_string()) return std::nullopt;
  const auto& text = value->get_ref<const std::string&>();
  const std::optional<int32_t> id = parts.vocabulary->Find(text);
  return id.has_value() ? id : parts.extra.Find(text);
}

absl::StatusOr<TokenizerParts> ReadParts(const json& file, const json& config) {
  TokenizerParts parts;
  parts.vocabulary = std::make_unique<Vocabulary>();
  const json& model = FieldOrNull(file, "model");
  HOSTLER_RETURN_IF_ERROR(ReadHfVocabulary(model, parts.vocabulary.get()));
  HOSTLER_RETURN_IF_ERROR(AddTokens(file, config, &parts));
  std::unordered_set<int32_t> special;
  for (const AddedToken& token : parts.added) {
    if (token.special) special.insert(token.id);
  }
  HOSTLER_ASSIGN_OR_RETURN(parts.model, ReadHfModel(model, *parts.vocabulary, special));
  HOSTLER_ASSIGN_OR_RETURN(parts.normalizer, ParseNormalizer(FieldOrNull(file, "normalizer")));
  HOSTLER_ASSIGN_OR_RETURN(parts.pre_tokenizer,
                           ParsePreTokenizer(FieldOrNull(file, "pre_tokenizer")));
  HOSTLER_ASSIGN_OR_RETURN(parts.decoder, ParseDecoder(FieldOrNull(file, "decoder")));
  HOSTLER_ASSIGN_OR_RETURN(
      PostProcessor post,
      ParsePostProcessor(FieldOrNull(file, "post_processor"), [&parts](int32_t id) {
        return parts.vocabulary->Has(id) || parts.extra.Has(id);
      }));
  parts.prefix = std::move(post.prefix);
  parts.suffix = std::move(post.suffix);
  parts.bos_id = ConfiguredToken(config, "bos_token", parts);
  parts.eos_id = ConfiguredToken(config, "eos_token", parts);
  return parts;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> NewHfTokenizer(const json& file, const json& config) {
  HOSTLER_ASSIGN_OR_RETURN(TokenizerParts parts, ReadParts(file, config));
  return NewPipelineTokenizer(std::move(parts));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadHfTokenizer(const std::string& directory) {
  const std::string path = directory + "/tokenizer.json";
  HOSTLER_ASSIGN_OR_RETURN(const json file, ReadJsonFile(path));
  absl::StatusOr<json> config = ReadJsonFile(directory + "/tokenizer_config.json");
  if (!config.ok() && config.status().code() != absl::StatusCode::kNotFound) {
    return config.status();
  }
  auto tokenizer = NewHfTokenizer(file, config.ok() ? *config : json());
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      fmt::format("{}: {}", path, std::string(tokenizer.status().message())));
}

}  // namespace hostler
