#include "engine/text/hf_models.h"

#include <string>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/base/utf8.h"
#include "engine/text/bpe.h"
#include "engine/text/json_fields.h"
#include "engine/text/sentencepiece.h"
#include "engine/text/wordpiece.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using nlohmann::json;
using MergeList = std::vector<std::pair<std::string, std::string>>;
using WordModelPtr = std::unique_ptr<WordModel>;

// [[text, score], ...]: ids count from 0.
absl::Status ReadScoredVocabulary(const json& vocab, Vocabulary* vocabulary) {
  if (vocab.size() > (size_t{1} << 22)) {
    return absl::InvalidArgumentError(fmt::format("{} tokens are too many", vocab.size()));
  }
  int32_t id = 0;
  for (const json& item : vocab) {
    if (!item.is_array() || item.size() != 2 || !item[0].is_string() || !item[1].is_number()) {
      return absl::InvalidArgumentError(
          fmt::format("vocabulary: token {} must be [text, score]", id));
    }
    const auto& text = item[0].get_ref<const std::string&>();
    if (!vocabulary->Add(text, id).ok()) vocabulary->AddDuplicate(text, id);
    ++id;
  }
  return absl::OkStatus();
}

// A merge is ["a", "b"] or "a b".
absl::StatusOr<MergeList> ReadMerges(const json& model) {
  HOSTLER_ASSIGN_OR_RETURN(const json* list, ArrayField(model, "merges", "model"));
  MergeList merges;
  merges.reserve(list->size());
  for (const json& item : *list) {
    if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      merges.emplace_back(item[0].get<std::string>(), item[1].get<std::string>());
      continue;
    }
    if (item.is_string()) {
      const auto& text = item.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        merges.emplace_back(text.substr(0, space), text.substr(space + 1));
        continue;
      }
    }
    return absl::InvalidArgumentError(fmt::format("merge {} must be two tokens", merges.size()));
  }
  return merges;
}

// Its "dropout" is for training: text has one encoding here.
absl::StatusOr<std::unique_ptr<WordModel>> ReadBpe(const json& model,
                                                   const Vocabulary& vocabulary) {
  BpeOptions options;
  HOSTLER_ASSIGN_OR_RETURN(options.fuse_unk, BoolField(model, "fuse_unk", "model", false));
  HOSTLER_ASSIGN_OR_RETURN(options.byte_fallback,
                           BoolField(model, "byte_fallback", "model", false));
  HOSTLER_ASSIGN_OR_RETURN(options.ignore_merges,
                           BoolField(model, "ignore_merges", "model", false));
  HOSTLER_ASSIGN_OR_RETURN(options.continuing_subword_prefix,
                           StringField(model, "continuing_subword_prefix", "model", ""));
  HOSTLER_ASSIGN_OR_RETURN(options.end_of_word_suffix,
                           StringField(model, "end_of_word_suffix", "model", ""));
  if (!FieldOrNull(model, "unk_token").is_null()) {
    HOSTLER_ASSIGN_OR_RETURN(options.unk_token, StringField(model, "unk_token", "model"));
  }
  HOSTLER_ASSIGN_OR_RETURN(const MergeList merges, ReadMerges(model));
  return NewBpe(&vocabulary, merges, std::move(options));
}

absl::StatusOr<WordModelPtr> ReadUnigram(const json& model, const Vocabulary& vocabulary,
                                         const std::unordered_set<int32_t>& special) {
  HOSTLER_ASSIGN_OR_RETURN(const json* vocab, ArrayField(model, "vocab", "model Unigram"));
  UnknownTokens unknown;
  if (!FieldOrNull(model, "unk_id").is_null()) {
    HOSTLER_ASSIGN_OR_RETURN(unknown.unk, TokenId(model["unk_id"], "model Unigram: unk_id"));
    if (!vocabulary.Has(*unknown.unk)) {
      return absl::InvalidArgumentError(fmt::format("unk_id {} is no token", *unknown.unk));
    }
  }
  HOSTLER_ASSIGN_OR_RETURN(unknown.has_bytes, BoolField(model, "byte_fallback", "model", false));
  for (int byte = 0; byte < 256 && unknown.has_bytes; ++byte) {
    const std::optional<int32_t> id = vocabulary.Find(fmt::format("<0x{:02X}>", byte));
    unknown.has_bytes = id.has_value();
    unknown.bytes[byte] = id.value_or(-1);
  }
  std::vector<ScoredToken> tokens;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = vocabulary.Text(id);
    if (text.size() > kMaxScoredTokenBytes) {
      return absl::InvalidArgumentError(fmt::format("token {} has {} bytes; at most {} are allowed",
                                                    id, text.size(), kMaxScoredTokenBytes));
    }
    if (text.empty() || vocabulary.Find(text) != id) continue;
    if (id == unknown.unk || special.contains(id)) continue;
    tokens.push_back({id, (*vocab)[id][1].get<double>()});
  }
  return NewUnigram(&vocabulary, tokens, std::move(unknown));
}

absl::StatusOr<WordModelPtr> ReadWordPiece(const json& model, const Vocabulary& vocabulary) {
  WordPieceOptions options;
  HOSTLER_ASSIGN_OR_RETURN(options.continuing_prefix,
                           StringField(model, "continuing_subword_prefix", "model", "##"));
  HOSTLER_ASSIGN_OR_RETURN(const std::string unk,
                           StringField(model, "unk_token", "model", "[UNK]"));
  options.unk = vocabulary.Find(unk);
  if (!options.unk.has_value()) {
    return absl::InvalidArgumentError(fmt::format("unk_token '{}' is not in the vocabulary", unk));
  }
  if (const json& most = FieldOrNull(model, "max_input_chars_per_word"); !most.is_null()) {
    if (!most.is_number_integer() || most < 0) {
      return absl::InvalidArgumentError("model: 'max_input_chars_per_word' must be a count");
    }
    options.max_characters = most.get<size_t>();
  }
  return NewWordPiece(vocabulary, std::move(options));
}

}  // namespace

absl::Status ReadHfVocabulary(const json& model, Vocabulary* vocabulary) {
  const json& vocab = FieldOrNull(model, "vocab");
  if (FieldOrNull(model, "type") == "Unigram" && vocab.is_array()) {
    return ReadScoredVocabulary(vocab, vocabulary);
  }
  if (!vocab.is_object()) {
    return absl::InvalidArgumentError(
        fmt::format("model: 'vocab' must be an object, not {}", vocab.type_name()));
  }
  for (const auto& [text, value] : vocab.items()) {
    HOSTLER_ASSIGN_OR_RETURN(const int32_t id,
                             TokenId(value, fmt::format("vocabulary: '{}'", text)));
    HOSTLER_RETURN_IF_ERROR(vocabulary->Add(text, id));
  }
  return absl::OkStatus();
}

absl::StatusOr<WordModelPtr> ReadHfModel(const json& model, const Vocabulary& vocabulary,
                                         const std::unordered_set<int32_t>& special) {
  HOSTLER_ASSIGN_OR_RETURN(const std::string type, StringField(model, "type", "model", "BPE"));
  if (type == "BPE") return ReadBpe(model, vocabulary);
  if (type == "Unigram") return ReadUnigram(model, vocabulary, special);
  if (type == "WordPiece") return ReadWordPiece(model, vocabulary);
  return absl::UnimplementedError(fmt::format("model {} is not supported", type));
}

}  // namespace hostler
