#include "engine/text/pretokenizer.h"

#include <utility>

#include "engine/base/status.h"
#include "engine/base/utf8.h"
#include "engine/text/byte_level.h"
#include "engine/text/json_fields.h"
#include "engine/text/normalizer.h"
#include "fmt/format.h"

namespace hostler {

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

using nlohmann::json;
using PreTokenizerPtr = std::unique_ptr<PreTokenizer>;

class Split : public PreTokenizer {
 public:
  Split(std::unique_ptr<Regex> pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void Apply(Words* words) const override {
    std::vector<TextRange> parts;
    std::vector<TextRange> matches;
    std::vector<Piece> pieces;
    for (const TextRange& part : words->parts) {
      matches.clear();
      pieces.clear();
      const std::string_view text(words->text.data() + part.begin, part.end - part.begin);
      pattern_->FindAll(text, &matches);
      size_t done = 0;
      for (const TextRange& match : matches) {
        if (match.begin > done) pieces.push_back({{done, match.begin}, invert_});
        pieces.push_back({match, !invert_});
        done = match.end;
      }
      if (done < text.size()) pieces.push_back({{done, text.size()}, invert_});
      const size_t first = parts.size();
      Join(pieces, &parts);
      for (size_t i = first; i < parts.size(); ++i) {
        parts[i].begin += part.begin;
        parts[i].end += part.begin;
      }
    }
    words->parts = std::move(parts);
  }

 private:
  struct Piece {
    TextRange range;
    bool is_match;
  };

  // Neighbouring pieces touch, so joining them is moving an end.
  void Join(const std::vector<Piece>& pieces, std::vector<TextRange>* parts) const {
    const size_t first = parts->size();
    for (size_t i = 0; i < pieces.size(); ++i) {
      const Piece& piece = pieces[i];
      const bool after_match = i > 0 && pieces[i - 1].is_match;
      bool join = false;
      switch (behavior_) {
        case SplitBehavior::kIsolated:
          break;
        case SplitBehavior::kRemoved:
          if (piece.is_match) continue;
          break;
        case SplitBehavior::kMergedWithPrevious:
          join = piece.is_match && !after_match;
          break;
        case SplitBehavior::kMergedWithNext:
          join = after_match && !piece.is_match;
          break;
        case SplitBehavior::kContiguous:
          join = i > 0 && piece.is_match == after_match;
          break;
      }
      if (join && parts->size() > first) {
        parts->back().end = piece.range.end;
      } else {
        parts->push_back(piece.range);
      }
    }
  }

  std::unique_ptr<Regex> pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer {
 public:
  explicit ByteLevel(bool add_prefix_space) : add_prefix_space_(add_prefix_space) {}

  void Apply(Words* words) const override {
    std::string text;
    text.reserve(words->text.size() + words->text.size() / 4);
    for (TextRange& part : words->parts) {
      const std::string_view word(words->text.data() + part.begin, part.end - part.begin);
      const size_t begin = text.size();
      if (add_prefix_space_ && !word.starts_with(' ')) AppendByteLevel(" ", &text);
      AppendByteLevel(word, &text);
      part = {begin, text.size()};
    }
    words->text = std::move(text);
  }

 private:
  bool add_prefix_space_;
};

// Puts a space before each part that has none.
class PrefixSpace : public PreTokenizer {
 public:
  void Apply(Words* words) const override {
    std::string text;
    text.reserve(words->text.size() + words->parts.size());
    for (TextRange& part : words->parts) {
      const size_t begin = text.size();
      if (words->text[part.begin] != ' ') text.push_back(' ');
      text.append(words->text, part.begin, part.end - part.begin);
      part = {begin, text.size()};
    }
    words->text = std::move(text);
  }
};

// SentencePiece's way: spaces become `replacement`, one goes in front.
class Metaspace : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  Metaspace(std::string replacement, Prepend prepend)
      : replacement_(std::move(replacement)), prepend_(prepend) {}

  void Apply(Words* words) const override {
    std::string text;
    text.reserve(words->text.size() * 3 / 2);
    for (size_t i = 0; i < words->parts.size(); ++i) {
      TextRange& part = words->parts[i];
      const std::string_view word(words->text.data() + part.begin, part.end - part.begin);
      const size_t begin = text.size();
      const bool wanted = prepend_ == Prepend::kAlways ||
                          (prepend_ == Prepend::kFirst && i == 0 && words->at_start);
      if (wanted && !word.starts_with(' ') && !word.starts_with(replacement_)) {
        text.append(replacement_);
      }
      for (char c : word) {
        if (c == ' ') {
          text.append(replacement_);
        } else {
          text.push_back(c);
        }
      }
      part = {begin, text.size()};
    }
    words->text = std::move(text);
  }

 private:
  std::string replacement_;
  Prepend prepend_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<PreTokenizerPtr> steps) : steps_(std::move(steps)) {}
  void Apply(Words* words) const override {
    const size_t most = MostNormalizedBytes(words->text.size());
    for (const PreTokenizerPtr& step : steps_) {
      step->Apply(words);
      if (words->text.size() > most) break;
    }
  }

 private:
  std::vector<PreTokenizerPtr> steps_;
};

absl::StatusOr<SplitBehavior> ParseBehavior(const std::string& name, const std::string& where) {
  static constexpr std::pair<std::string_view, SplitBehavior> kBehaviors[] = {
      {"Isolated", SplitBehavior::kIsolated},
      {"Removed", SplitBehavior::kRemoved},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  };
  for (const auto& [known, behavior] : kBehaviors) {
    if (name == known) return behavior;
  }
  return absl::UnimplementedError(fmt::format("{}: behavior '{}'", where, name));
}

absl::StatusOr<PreTokenizerPtr> SplitBy(const std::string& pattern, SplitBehavior behavior,
                                        bool invert = false) {
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Regex> regex, Regex::Compile(pattern));
  return NewSplit(std::move(regex), behavior, invert);
}

absl::StatusOr<PreTokenizerPtr> ParseSplit(const json& spec, const std::string& where) {
  const json& pattern = FieldOrNull(spec, "pattern");
  std::string regex;
  if (pattern.is_object() && pattern.contains("Regex")) {
    HOSTLER_ASSIGN_OR_RETURN(regex, StringField(pattern, "Regex", where));
  } else if (pattern.is_object() && pattern.contains("String")) {
    HOSTLER_ASSIGN_OR_RETURN(const std::string literal, StringField(pattern, "String", where));
    regex = EscapeForRegex(literal);
  } else if (pattern.is_string()) {
    regex = EscapeForRegex(pattern.get<std::string>());
  } else {
    return absl::InvalidArgumentError(
        fmt::format("{}: 'pattern' must hold 'Regex' or 'String'", where));
  }
  HOSTLER_ASSIGN_OR_RETURN(const std::string name, StringField(spec, "behavior", where));
  HOSTLER_ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(name, where));
  HOSTLER_ASSIGN_OR_RETURN(const bool invert, BoolField(spec, "invert", where, false));
  return SplitBy(regex, behavior, invert);
}

absl::StatusOr<PreTokenizerPtr> ParseByteLevel(const json& spec, const std::string& where) {
  HOSTLER_ASSIGN_OR_RETURN(const bool prefix, BoolField(spec, "add_prefix_space", where, true));
  HOSTLER_ASSIGN_OR_RETURN(const bool use_regex, BoolField(spec, "use_regex", where, true));
  if (!use_regex) return NewByteLevel(prefix);
  std::vector<PreTokenizerPtr> steps;
  if (prefix) steps.push_back(std::make_unique<PrefixSpace>());
  HOSTLER_ASSIGN_OR_RETURN(PreTokenizerPtr split, SplitBy(kGpt2Pattern, SplitBehavior::kIsolated));
  steps.push_back(std::move(split));
  steps.push_back(NewByteLevel(/*add_prefix_space=*/false));
  return NewPreTokenizerSequence(std::move(steps));
}

absl::StatusOr<PreTokenizerPtr> ParseMetaspace(const json& spec, const std::string& where) {
  HOSTLER_ASSIGN_OR_RETURN(const std::string replacement,
                           StringField(spec, "replacement", where, "\xE2\x96\x81"));
  if (replacement.empty() || Utf8Length(replacement, 0) != replacement.size()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: 'replacement' must be one character", where));
  }
  HOSTLER_ASSIGN_OR_RETURN(const std::string scheme,
                           StringField(spec, "prepend_scheme", where, "always"));
  HOSTLER_ASSIGN_OR_RETURN(const bool prefix, BoolField(spec, "add_prefix_space", where, true));
  HOSTLER_ASSIGN_OR_RETURN(const bool split, BoolField(spec, "split", where, true));
  Metaspace::Prepend prepend;
  if (!prefix || scheme == "never") {
    prepend = Metaspace::Prepend::kNever;
  } else if (scheme == "always") {
    prepend = Metaspace::Prepend::kAlways;
  } else if (scheme == "first") {
    prepend = Metaspace::Prepend::kFirst;
  } else {
    return absl::UnimplementedError(fmt::format("{}: prepend_scheme '{}'", where, scheme));
  }
  std::vector<PreTokenizerPtr> steps;
  steps.push_back(std::make_unique<Metaspace>(replacement, prepend));
  if (split) {
    HOSTLER_ASSIGN_OR_RETURN(PreTokenizerPtr step,
                             SplitBy(EscapeForRegex(replacement), SplitBehavior::kMergedWithNext));
    steps.push_back(std::move(step));
  }
  return NewPreTokenizerSequence(std::move(steps));
}

// \w as Rust's regular expressions have it.
constexpr char kWordCharacters[] = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d})";

// ASCII punctuation as Unicode and as C see it.
constexpr char kPunctuation[] = R"([\p{P}!-/:-@\[-`{-~])";

absl::StatusOr<PreTokenizerPtr> ParseBert() {
  std::vector<PreTokenizerPtr> steps;
  HOSTLER_ASSIGN_OR_RETURN(PreTokenizerPtr spaces, SplitBy("\\s", SplitBehavior::kRemoved));
  HOSTLER_ASSIGN_OR_RETURN(PreTokenizerPtr marks, SplitBy(kPunctuation, SplitBehavior::kIsolated));
  steps.push_back(std::move(spaces));
  steps.push_back(std::move(marks));
  return NewPreTokenizerSequence(std::move(steps));
}

absl::StatusOr<PreTokenizerPtr> ParseStep(const json& spec) {
  HOSTLER_ASSIGN_OR_RETURN(const std::string type, StringField(spec, "type", "pre_tokenizer"));
  const std::string where = "pre_tokenizer " + type;
  if (type == "Split") return ParseSplit(spec, where);
  if (type == "ByteLevel") return ParseByteLevel(spec, where);
  if (type == "Metaspace") return ParseMetaspace(spec, where);
  if (type == "Whitespace") {
    return SplitBy(fmt::format("[{0}]+|[^{0}\\s]+", kWordCharacters), SplitBehavior::kRemoved,
                   /*invert=*/true);
  }
  if (type == "WhitespaceSplit") return SplitBy("\\s", SplitBehavior::kRemoved);
  if (type == "BertPreTokenizer") return ParseBert();
  if (type == "Digits") {
    HOSTLER_ASSIGN_OR_RETURN(const bool single, BoolField(spec, "individual_digits", where, false));
    return SplitBy("\\p{N}", single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    HOSTLER_ASSIGN_OR_RETURN(const std::string name,
                             StringField(spec, "behavior", where, "Isolated"));
    HOSTLER_ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(name, where));
    return SplitBy(kPunctuation, behavior);
  }
  if (type == "FixedLength") {
    const json& length = FieldOrNull(spec, "length");
    // PCRE2 counts no further.
    if (!length.is_number_integer() || length < 1 || length > 65535) {
      return absl::InvalidArgumentError(fmt::format("{}: 'length' must be from 1 to 65535", where));
    }
    return SplitBy(fmt::format("(?s).{{1,{}}}", length.get<int>()), SplitBehavior::kIsolated);
  }
  if (type == "CharDelimiterSplit") {
    HOSTLER_ASSIGN_OR_RETURN(const std::string delimiter, StringField(spec, "delimiter", where));
    return SplitBy(EscapeForRegex(delimiter), SplitBehavior::kRemoved);
  }
  return absl::UnimplementedError(fmt::format("{} is not supported", where));
}

// Sequences within sequences become one, whose growth is bounded as a whole.
absl::Status AddSteps(const json& spec, int depth, std::vector<PreTokenizerPtr>* steps) {
  if (depth > kMaxComponentDepth) {
    return absl::InvalidArgumentError("pre_tokenizer: nested too deep");
  }
  if (FieldOrNull(spec, "type") == "Sequence") {
    HOSTLER_ASSIGN_OR_RETURN(const json* list, ArrayField(spec, "pretokenizers", "pre_tokenizer"));
    for (const json& item : *list) HOSTLER_RETURN_IF_ERROR(AddSteps(item, depth + 1, steps));
    return absl::OkStatus();
  }
  if (steps->size() >= kMaxComponents) {
    return absl::InvalidArgumentError(
        fmt::format("pre_tokenizer: more than {} steps", kMaxComponents));
  }
  HOSTLER_ASSIGN_OR_RETURN(PreTokenizerPtr step, ParseStep(spec));
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

}  // namespace

PreTokenizerPtr NewSplit(std::unique_ptr<Regex> pattern, SplitBehavior behavior, bool invert) {
  return std::make_unique<Split>(std::move(pattern), behavior, invert);
}

PreTokenizerPtr NewByteLevel(bool add_prefix_space) {
  return std::make_unique<ByteLevel>(add_prefix_space);
}

PreTokenizerPtr NewPreTokenizerSequence(std::vector<PreTokenizerPtr> steps) {
  return std::make_unique<Sequence>(std::move(steps));
}

absl::StatusOr<PreTokenizerPtr> ParsePreTokenizer(const json& spec) {
  std::vector<PreTokenizerPtr> steps;
  if (!spec.is_null()) HOSTLER_RETURN_IF_ERROR(AddSteps(spec, 0, &steps));
  return NewPreTokenizerSequence(std::move(steps));
}

}  // namespace hostler
