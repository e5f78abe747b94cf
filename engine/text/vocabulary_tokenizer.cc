#include "engine/text/vocabulary_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "engine/base/status.h"
#include "engine/base/utf8.h"
#include "engine/text/bpe.h"
#include "engine/text/named_pretokenizers.h"
#include "engine/text/pipeline_tokenizer.h"
#include "engine/text/sentencepiece.h"
#include "engine/text/wordpiece.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";

StoredTokenType TypeOf(const StoredVocabulary& stored, size_t id) {
  return stored.types.empty() ? StoredTokenType::kNormal
                              : static_cast<StoredTokenType>(stored.types[id]);
}

absl::Status Check(const StoredVocabulary& stored) {
  const size_t count = stored.tokens.size();
  if (count == 0) return absl::InvalidArgumentError("the vocabulary is empty");
  if (count > std::numeric_limits<int32_t>::max() / 2) {
    return absl::InvalidArgumentError(fmt::format("{} tokens are too many", count));
  }
  if (!stored.types.empty() && stored.types.size() != count) {
    return absl::InvalidArgumentError(
        fmt::format("{} token types for {} tokens", stored.types.size(), count));
  }
  const std::pair<const char*, std::optional<int32_t>> ids[] = {{"BOS", stored.bos},
                                                                {"EOS", stored.eos},
                                                                {"unknown", stored.unk},
                                                                {"SEP", stored.sep},
                                                                {"CLS", stored.cls}};
  for (const auto& [name, id] : ids) {
    if (id.has_value() && (*id < 0 || static_cast<size_t>(*id) >= count)) {
      return absl::InvalidArgumentError(
          fmt::format("the {} token's id {} is not one of {}", name, *id, count));
    }
  }
  return absl::OkStatus();
}

std::string SpacesFor(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const bool space = text.starts_with(kSpace);
    out.push_back(space ? ' ' : text[0]);
    text.remove_prefix(space ? kSpace.size() : 1);
  }
  return out;
}

// The tokens, and which of them are looked for in any text.
TokenizerParts CommonParts(const StoredVocabulary& stored) {
  TokenizerParts parts;
  parts.vocabulary = std::make_unique<Vocabulary>();
  const bool sentencepiece = stored.model == "llama" || stored.model == "t5";
  for (size_t i = 0; i < stored.tokens.size(); ++i) {
    const std::string& text = stored.tokens[i];
    const auto id = static_cast<int32_t>(i);
    const bool first = parts.vocabulary->Add(text, id).ok();
    if (!first) parts.vocabulary->AddDuplicate(text, id);
    const StoredTokenType type = TypeOf(stored, i);
    const bool user_defined = type == StoredTokenType::kUserDefined;
    const bool special = type == StoredTokenType::kControl || type == StoredTokenType::kUnknown;
    if (!user_defined && !special) continue;
    AddedToken added{.id = id, .content = IsUtf8(text) ? text : ReplaceBadBytes(text)};
    added.special = special;
    if (user_defined && sentencepiece) {
      // SentencePiece looks for them when spaces are U+2581 already.
      added.normalized = true;
      added.content = SpacesFor(added.content);
    }
    parts.added.push_back(std::move(added));
  }
  parts.bos_id = stored.bos;
  parts.eos_id = stored.eos;
  return parts;
}

void SetPrefixAndSuffix(const StoredVocabulary& stored, bool add_bos, bool add_eos,
                        TokenizerParts* parts) {
  if (stored.add_bos.value_or(add_bos) && stored.bos.has_value()) {
    parts->prefix = {*stored.bos};
  }
  if (stored.add_eos.value_or(add_eos) && stored.eos.has_value()) {
    parts->suffix = {*stored.eos};
  }
  if (stored.add_sep.value_or(false) && stored.sep.has_value()) {
    parts->suffix.push_back(*stored.sep);
  }
}

absl::StatusOr<TokenizerParts> ByteLevelBpe(const StoredVocabulary& stored) {
  HOSTLER_ASSIGN_OR_RETURN(NamedPreTokenizer pre,
                           FindPreTokenizer(stored.pre.empty() ? "default" : stored.pre));
  TokenizerParts parts = CommonParts(stored);
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(stored.merges.size());
  for (const std::string& merge : stored.merges) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos) {
      return absl::InvalidArgumentError(
          fmt::format("merge {} ('{}') must be two tokens", merges.size(), merge));
    }
    std::string left = merge.substr(0, space), right = merge.substr(space + 1);
    // A merge of what is no token never applies; some files have such.
    const Vocabulary& vocabulary = *parts.vocabulary;
    if (vocabulary.Find(left) && vocabulary.Find(right) && vocabulary.Find(left + right)) {
      merges.emplace_back(std::move(left), std::move(right));
    }
  }
  BpeOptions options;
  options.ignore_merges = pre.ignore_merges;
  HOSTLER_ASSIGN_OR_RETURN(parts.model, NewBpe(parts.vocabulary.get(), merges, options));
  parts.pre_tokenizer = std::move(pre.steps);
  parts.decoder = ByteLevelDecoder();
  SetPrefixAndSuffix(stored, pre.add_bos, /*add_eos=*/false, &parts);
  return parts;
}

// The tokens that text can become, by their scores.
absl::StatusOr<std::vector<ScoredToken>> ScoredTokens(const StoredVocabulary& stored,
                                                      const Vocabulary& vocabulary) {
  if (stored.scores.size() != stored.tokens.size()) {
    return absl::InvalidArgumentError(
        fmt::format("{} scores for {} tokens", stored.scores.size(), stored.tokens.size()));
  }
  std::vector<ScoredToken> tokens;
  for (size_t i = 0; i < stored.tokens.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const std::string& text = stored.tokens[i];
    if (TypeOf(stored, i) != StoredTokenType::kNormal) continue;
    if (text.empty() || !IsUtf8(text) || vocabulary.Find(text) != id) continue;
    if (!std::isfinite(stored.scores[i])) {
      return absl::InvalidArgumentError(fmt::format("token {} has no finite score", i));
    }
    if (text.size() > kMaxScoredTokenBytes) {
      return absl::InvalidArgumentError(fmt::format("token {} has {} bytes; at most {} are allowed",
                                                    i, text.size(), kMaxScoredTokenBytes));
    }
    tokens.push_back({id, stored.scores[i]});
  }
  return tokens;
}

UnknownTokens FindUnknownTokens(const StoredVocabulary& stored, const Vocabulary& vocabulary) {
  UnknownTokens unknown;
  unknown.has_bytes = true;
  for (int byte = 0; byte < 256; ++byte) {
    const std::optional<int32_t> id = vocabulary.Find(fmt::format("<0x{:02X}>", byte));
    unknown.has_bytes = unknown.has_bytes && id.has_value();
    unknown.bytes[byte] = id.value_or(-1);
  }
  unknown.unk = stored.unk;
  for (size_t i = 0; i < stored.tokens.size() && !unknown.unk.has_value(); ++i) {
    if (TypeOf(stored, i) == StoredTokenType::kUnknown) unknown.unk = static_cast<int32_t>(i);
  }
  return unknown;
}

absl::StatusOr<TokenizerParts> SentencePiece(const StoredVocabulary& stored) {
  const bool unigram = stored.model == "t5";
  TokenizerParts parts = CommonParts(stored);
  const Vocabulary& vocabulary = *parts.vocabulary;
  HOSTLER_ASSIGN_OR_RETURN(const std::vector<ScoredToken> tokens, ScoredTokens(stored, vocabulary));
  const UnknownTokens unknown = FindUnknownTokens(stored, vocabulary);
  parts.model = (unigram ? NewUnigram : NewSentencePieceBpe)(&vocabulary, tokens, unknown);
  HOSTLER_ASSIGN_OR_RETURN(
      parts.normalizer,
      NewSentencePieceNormalizer(stored.precompiled_charsmap, stored.remove_extra_whitespaces));
  parts.decoder = SentencePieceDecoder();
  if (stored.add_space_prefix) {
    parts.text_prefix = kSpace;
    parts.decoder.edges.first = FirstSpace::kDropOfText;
  }
  SetPrefixAndSuffix(stored, /*add_bos=*/!unigram, /*add_eos=*/unigram, &parts);
  return parts;
}

// BERT's own files mark what continues a word with "##", GGUF files what
// begins one with U+2581.
void MarkWordStarts(StoredVocabulary* stored) {
  for (const std::string& text : stored->tokens) {
    if (text.starts_with(kSpace)) return;
  }
  for (size_t i = 0; i < stored->tokens.size(); ++i) {
    std::string& text = stored->tokens[i];
    if (TypeOf(*stored, i) != StoredTokenType::kNormal) continue;
    if (text.starts_with("##")) {
      text.erase(0, 2);
    } else {
      text.insert(0, kSpace);
    }
  }
}

absl::StatusOr<TokenizerParts> BertWordPiece(StoredVocabulary stored) {
  MarkWordStarts(&stored);
  TokenizerParts parts = CommonParts(stored);
  if (!stored.cls.has_value()) stored.cls = parts.vocabulary->Find("[CLS]");
  if (!stored.sep.has_value()) stored.sep = parts.vocabulary->Find("[SEP]");
  if (!stored.unk.has_value()) stored.unk = parts.vocabulary->Find("[UNK]");
  if (stored.cls.has_value()) stored.bos = stored.cls;
  if (!stored.add_sep.has_value()) stored.add_sep = true;
  HOSTLER_ASSIGN_OR_RETURN(parts.normalizer, ParseNormalizer({{"type", "BertNormalizer"}}));
  HOSTLER_ASSIGN_OR_RETURN(parts.pre_tokenizer, ParsePreTokenizer({{"type", "BertPreTokenizer"}}));
  WordPieceOptions options;
  options.first_prefix = kSpace;
  options.unk = stored.unk;
  HOSTLER_ASSIGN_OR_RETURN(parts.model, NewWordPiece(*parts.vocabulary, std::move(options)));
  parts.decoder = SentencePieceDecoder();
  parts.decoder.edges.first = FirstSpace::kDropOfText;
  SetPrefixAndSuffix(stored, /*add_bos=*/true, /*add_eos=*/false, &parts);
  return parts;
}

absl::StatusOr<TokenizerParts> BuildParts(StoredVocabulary stored) {
  if (stored.model == "gpt2") return ByteLevelBpe(stored);
  if (stored.model == "llama" || stored.model == "t5") return SentencePiece(stored);
  if (stored.model == "bert") return BertWordPiece(std::move(stored));
  return absl::UnimplementedError(
      fmt::format("tokenizer model '{}' is not supported", stored.model));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> NewVocabularyTokenizer(StoredVocabulary stored) {
  HOSTLER_RETURN_IF_ERROR(Check(stored));
  HOSTLER_ASSIGN_OR_RETURN(TokenizerParts parts, BuildParts(std::move(stored)));
  return NewPipelineTokenizer(std::move(parts));
}

}  // namespace hostler
