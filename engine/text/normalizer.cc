#include "engine/text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "engine/base/status.h"
#include "engine/base/utf8.h"
#include "engine/text/byte_level.h"
#include "engine/text/json_fields.h"
#include "engine/text/precompiled_normalizer.h"
#include "engine/text/regex.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using nlohmann::json;
using NormalizerPtr = std::unique_ptr<Normalizer>;

bool IsAscii(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

class UnicodeForm : public Normalizer {
 public:
  UnicodeForm(bool compose, bool compatible) : compose_(compose), compatible_(compatible) {}

  std::string Apply(std::string text) const override {
    if (IsAscii(text)) return text;
    std::vector<utf8proc_int32_t> points = Decompose(text);
    OrderMarks(&points);
    utf8proc_ssize_t count = static_cast<utf8proc_ssize_t>(points.size());
    if (compose_) {
      count = utf8proc_normalize_utf32(
          points.data(), count, static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    }
    std::string out;
    out.reserve(text.size());
    for (utf8proc_ssize_t i = 0; i < count; ++i) AppendUtf8(points[i], &out);
    return out;
  }

 private:
  std::vector<utf8proc_int32_t> Decompose(const std::string& text) const {
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                        (compatible_ ? UTF8PROC_COMPAT : 0));
    std::vector<utf8proc_int32_t> points;
    points.reserve(text.size());
    utf8proc_int32_t buffer[32];  // the longest decomposition has 18
    int boundary = 0;
    for (size_t pos = 0; pos < text.size();) {
      const auto c = static_cast<utf8proc_int32_t>(NextCodePoint(text, &pos));
      const utf8proc_ssize_t n =
          utf8proc_decompose_char(c, buffer, std::size(buffer), options, &boundary);
      if (n < 0 || n > static_cast<utf8proc_ssize_t>(std::size(buffer))) {
        points.push_back(c);
      } else {
        points.insert(points.end(), buffer, buffer + n);
      }
    }
    return points;
  }

  // Canonical order. utf8proc's own ordering is quadratic in a run of marks.
  static void OrderMarks(std::vector<utf8proc_int32_t>* points) {
    const auto combining = [](utf8proc_int32_t c) {
      return utf8proc_get_property(c)->combining_class;
    };
    for (auto it = points->begin(); it != points->end();) {
      if (combining(*it) == 0) {
        ++it;
        continue;
      }
      auto end = it;
      while (end != points->end() && combining(*end) != 0) ++end;
      std::stable_sort(it, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
        return combining(a) < combining(b);
      });
      it = end;
    }
  }

  bool compose_;
  bool compatible_;
};

class Lowercase : public Normalizer {
 public:
  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t pos = 0; pos < text.size();) {
      const char32_t c = NextCodePoint(text, &pos);
      if (c == 0x130) {
        out.append("i\xCC\x87");  // the one letter whose lower case is two characters
      } else {
        AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), &out);
      }
    }
    return out;
  }
};

class StripAccents : public Normalizer {
 public:
  // BERT's own step leaves the marks that take space.
  explicit StripAccents(bool only_nonspacing) : only_nonspacing_(only_nonspacing) {}

  std::string Apply(std::string text) const override {
    const int last = only_nonspacing_ ? UTF8PROC_CATEGORY_MN : UTF8PROC_CATEGORY_ME;
    std::string out;
    for (size_t pos = 0; pos < text.size();) {
      const char32_t c = NextCodePoint(text, &pos);
      const int category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
      if (category < UTF8PROC_CATEGORY_MN || category > last) AppendUtf8(c, &out);
    }
    return out;
  }

 private:
  bool only_nonspacing_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  std::string Apply(std::string text) const override {
    return text.empty() ? text : prefix_ + text;
  }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(std::unique_ptr<Regex> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  std::string Apply(std::string text) const override {
    const size_t most = MostNormalizedBytes(text.size());
    return pattern_->ReplaceAll(std::move(text), content_, most);
  }

 private:
  std::unique_ptr<Regex> pattern_;
  std::string content_;
};

bool IsIdeograph(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// BERT's: drops control characters; white space becomes spaces.
class CleanText : public Normalizer {
 public:
  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const char32_t c = NextCodePoint(text, &pos);
      switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
        case UTF8PROC_CATEGORY_ZS:
        case UTF8PROC_CATEGORY_ZL:
        case UTF8PROC_CATEGORY_ZP:
          out.push_back(' ');
          break;
        case UTF8PROC_CATEGORY_CC:
          if (c == '\t' || c == '\n' || c == '\r') out.push_back(' ');
          break;
        case UTF8PROC_CATEGORY_CF:
        case UTF8PROC_CATEGORY_CO:
          break;
        default:
          if (c != 0xFFFD) out.append(text, begin, pos - begin);
      }
    }
    return out;
  }
};

// Puts spaces round Chinese characters.
class SpaceIdeographs : public Normalizer {
 public:
  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const bool apart = IsIdeograph(NextCodePoint(text, &pos));
      if (apart) out.push_back(' ');
      out.append(text, begin, pos - begin);
      if (apart) out.push_back(' ');
    }
    return out;
  }
};

class ByteLevel : public Normalizer {
 public:
  std::string Apply(std::string text) const override {
    std::string out;
    AppendByteLevel(text, &out);
    return out;
  }
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<NormalizerPtr> steps) : steps_(std::move(steps)) {}
  std::string Apply(std::string text) const override {
    const size_t most = MostNormalizedBytes(text.size());
    for (const NormalizerPtr& step : steps_) {
      text = step->Apply(std::move(text));
      if (text.size() > most) break;
    }
    return text;
  }

 private:
  std::vector<NormalizerPtr> steps_;
};

absl::StatusOr<NormalizerPtr> ReplaceBy(const std::string& pattern, std::string content) {
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Regex> regex, Regex::Compile(pattern));
  return std::make_unique<Replace>(std::move(regex), std::move(content));
}

absl::StatusOr<NormalizerPtr> ParseReplace(const json& spec, const std::string& where) {
  const json& pattern = FieldOrNull(spec, "pattern");
  HOSTLER_ASSIGN_OR_RETURN(std::string content, StringField(spec, "content", where));
  if (pattern.is_object() && pattern.contains("Regex")) {
    HOSTLER_ASSIGN_OR_RETURN(const std::string regex, StringField(pattern, "Regex", where));
    return ReplaceBy(regex, std::move(content));
  }
  HOSTLER_ASSIGN_OR_RETURN(const std::string literal, StringField(pattern, "String", where));
  return ReplaceBy(EscapeForRegex(literal), std::move(content));
}

absl::StatusOr<NormalizerPtr> ParseStrip(const json& spec, const std::string& where) {
  HOSTLER_ASSIGN_OR_RETURN(const bool left, BoolField(spec, "strip_left", where, true));
  HOSTLER_ASSIGN_OR_RETURN(const bool right, BoolField(spec, "strip_right", where, true));
  std::vector<NormalizerPtr> steps;
  for (const char* pattern : {left ? "\\A\\s+" : nullptr, right ? "(?<!\\s)\\s+\\z" : nullptr}) {
    if (pattern == nullptr) continue;
    HOSTLER_ASSIGN_OR_RETURN(NormalizerPtr step, ReplaceBy(pattern, ""));
    steps.push_back(std::move(step));
  }
  return std::make_unique<Sequence>(std::move(steps));
}

absl::StatusOr<NormalizerPtr> ParseBert(const json& spec, const std::string& where) {
  HOSTLER_ASSIGN_OR_RETURN(const bool clean, BoolField(spec, "clean_text", where, true));
  HOSTLER_ASSIGN_OR_RETURN(const bool chinese,
                           BoolField(spec, "handle_chinese_chars", where, true));
  HOSTLER_ASSIGN_OR_RETURN(const bool lowercase, BoolField(spec, "lowercase", where, true));
  bool strip = lowercase;
  if (!FieldOrNull(spec, "strip_accents").is_null()) {
    HOSTLER_ASSIGN_OR_RETURN(strip, BoolField(spec, "strip_accents", where, true));
  }
  std::vector<NormalizerPtr> steps;
  if (clean) steps.push_back(std::make_unique<CleanText>());
  if (chinese) steps.push_back(std::make_unique<SpaceIdeographs>());
  if (strip) {
    steps.push_back(std::make_unique<UnicodeForm>(/*compose=*/false, /*compatible=*/false));
    steps.push_back(std::make_unique<StripAccents>(/*only_nonspacing=*/true));
  }
  if (lowercase) steps.push_back(std::make_unique<Lowercase>());
  return std::make_unique<Sequence>(std::move(steps));
}

absl::StatusOr<NormalizerPtr> ParseStep(const json& spec) {
  HOSTLER_ASSIGN_OR_RETURN(const std::string type, StringField(spec, "type", "normalizer"));
  const std::string where = "normalizer " + type;
  if (type == "NFC") return std::make_unique<UnicodeForm>(true, false);
  if (type == "NFD") return std::make_unique<UnicodeForm>(false, false);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(true, true);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(false, true);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "StripAccents") return std::make_unique<StripAccents>(/*only_nonspacing=*/false);
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  if (type == "BertNormalizer") return ParseBert(spec, where);
  if (type == "Strip") return ParseStrip(spec, where);
  if (type == "Replace") return ParseReplace(spec, where);
  if (type == "Nmt") return NewNmtNormalizer();
  if (type == "Precompiled") {
    // Files that Transformers writes of models without a map have null.
    HOSTLER_ASSIGN_OR_RETURN(const std::string map,
                             StringField(spec, "precompiled_charsmap", where, ""));
    return NewPrecompiledNormalizer(map);
  }
  if (type == "Prepend") {
    HOSTLER_ASSIGN_OR_RETURN(std::string prefix, StringField(spec, "prepend", where));
    return std::make_unique<Prepend>(std::move(prefix));
  }
  return absl::UnimplementedError(fmt::format("{} is not supported", where));
}

// Sequences within sequences become one, whose growth is bounded as a whole.
absl::Status AddSteps(const json& spec, int depth, std::vector<NormalizerPtr>* steps) {
  if (depth > kMaxComponentDepth) {
    return absl::InvalidArgumentError("normalizer: nested too deep");
  }
  if (FieldOrNull(spec, "type") == "Sequence") {
    HOSTLER_ASSIGN_OR_RETURN(const json* list, ArrayField(spec, "normalizers", "normalizer"));
    for (const json& item : *list) HOSTLER_RETURN_IF_ERROR(AddSteps(item, depth + 1, steps));
    return absl::OkStatus();
  }
  if (steps->size() >= kMaxComponents) {
    return absl::InvalidArgumentError(
        fmt::format("normalizer: more than {} steps", kMaxComponents));
  }
  HOSTLER_ASSIGN_OR_RETURN(NormalizerPtr step, ParseStep(spec));
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<NormalizerPtr> ParseNormalizer(const json& spec) {
  std::vector<NormalizerPtr> steps;
  if (!spec.is_null()) HOSTLER_RETURN_IF_ERROR(AddSteps(spec, 0, &steps));
  return std::make_unique<Sequence>(std::move(steps));
}

}  // namespace hostler
