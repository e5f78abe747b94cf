#include "engine/text/post_processor.h"

#include <string>

#include "engine/base/status.h"
#include "engine/text/json_fields.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using nlohmann::json;
using IsToken = std::function<bool(int32_t)>;

absl::StatusOr<int32_t> KnownId(const json& value, const IsToken& is_token,
                                const std::string& where) {
  HOSTLER_ASSIGN_OR_RETURN(const int32_t id, TokenId(value, where));
  if (!is_token(id)) {
    return absl::InvalidArgumentError(fmt::format("{}: no token has id {}", where, id));
  }
  return id;
}

absl::StatusOr<PostProcessor> ParseTemplate(const json& spec, const IsToken& is_token,
                                            const std::string& where) {
  HOSTLER_ASSIGN_OR_RETURN(const json* pieces, ArrayField(spec, "single", where));
  const json& tokens = FieldOrNull(spec, "special_tokens");
  PostProcessor result;
  bool seen_text = false;
  for (const json& piece : *pieces) {
    if (FieldOrNull(piece, "Sequence").is_object()) {
      if (seen_text) {
        return absl::UnimplementedError(fmt::format("{}: the text more than once", where));
      }
      seen_text = true;
      continue;
    }
    HOSTLER_ASSIGN_OR_RETURN(const std::string name,
                             StringField(FieldOrNull(piece, "SpecialToken"), "id", where));
    HOSTLER_ASSIGN_OR_RETURN(const json* ids, ArrayField(FieldOrNull(tokens, name), "ids", where));
    for (const json& value : *ids) {
      HOSTLER_ASSIGN_OR_RETURN(const int32_t id, KnownId(value, is_token, where));
      (seen_text ? result.suffix : result.prefix).push_back(id);
    }
  }
  if (!seen_text) {
    return absl::InvalidArgumentError(fmt::format("{}: 'single' leaves the text out", where));
  }
  return result;
}

// BERT's and RoBERTa's: "cls" and "sep" are [text, id].
absl::StatusOr<PostProcessor> ParseClsSep(const json& spec, const IsToken& is_token,
                                          const std::string& where) {
  PostProcessor result;
  for (const char* field : {"cls", "sep"}) {
    HOSTLER_ASSIGN_OR_RETURN(const json* pair, ArrayField(spec, field, where));
    if (pair->size() != 2) {
      return absl::InvalidArgumentError(fmt::format("{}: '{}' must be [text, id]", where, field));
    }
    HOSTLER_ASSIGN_OR_RETURN(const int32_t id, KnownId((*pair)[1], is_token, where));
    (field[0] == 'c' ? result.prefix : result.suffix).push_back(id);
  }
  return result;
}

absl::StatusOr<PostProcessor> ParseStep(const json& spec, const IsToken& is_token, int depth) {
  if (depth > kMaxComponentDepth) {
    return absl::InvalidArgumentError("post_processor: nested too deep");
  }
  HOSTLER_ASSIGN_OR_RETURN(const std::string type, StringField(spec, "type", "post_processor"));
  const std::string where = "post_processor " + type;
  if (type == "ByteLevel") return PostProcessor{};  // it only moves offsets
  if (type == "TemplateProcessing") return ParseTemplate(spec, is_token, where);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    return ParseClsSep(spec, is_token, where);
  }
  if (type != "Sequence") {
    return absl::UnimplementedError(fmt::format("{} is not supported", where));
  }
  HOSTLER_ASSIGN_OR_RETURN(const json* list, ArrayField(spec, "processors", where));
  PostProcessor result;
  for (const json& item : *list) {
    HOSTLER_ASSIGN_OR_RETURN(PostProcessor outer, ParseStep(item, is_token, depth + 1));
    result.prefix.insert(result.prefix.begin(), outer.prefix.begin(), outer.prefix.end());
    result.suffix.insert(result.suffix.end(), outer.suffix.begin(), outer.suffix.end());
  }
  return result;
}

}  // namespace

absl::StatusOr<PostProcessor> ParsePostProcessor(const json& spec,
                                                 const std::function<bool(int32_t)>& is_token) {
  if (spec.is_null()) return PostProcessor{};
  return ParseStep(spec, is_token, 0);
}

}  // namespace hostler
