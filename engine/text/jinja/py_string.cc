#include "engine/text/jinja/py_string.h"

#include <utf8proc.h>

#include <algorithm>

#include "engine/base/utf8.h"
#include "fmt/format.h"

namespace hostler::jinja {
namespace {

utf8proc_category_t CategoryOf(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool IsUpperLetter(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_LU; }
bool IsLowerLetter(char32_t c) {
  return CategoryOf(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA;
}
bool IsTitleLetter(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_LT; }
bool IsCased(char32_t c) { return IsUpperLetter(c) || IsLowerLetter(c) || IsTitleLetter(c); }

bool IsAlpha(char32_t c) {
  const auto category = CategoryOf(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}
bool IsDecimal(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_ND; }
bool IsDigit(char32_t c) {
  return IsDecimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
         (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
         (c >= 0x2460 && c <= 0x2468);
}
bool IsNumeric(char32_t c) {
  const auto category = CategoryOf(c);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsPrintable(char32_t c) {
  if (c == ' ') return true;
  switch (CategoryOf(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

// Upper (or title) case of the characters whose upper case is several.
void AppendUpper(char32_t c, bool title, std::string* out) {
  switch (c) {
    case 0xDF:
      out->append(title ? "Ss" : "SS");
      return;
    case 0xFB00:
      out->append(title ? "Ff" : "FF");
      return;
    case 0xFB01:
      out->append(title ? "Fi" : "FI");
      return;
    case 0xFB02:
      out->append(title ? "Fl" : "FL");
      return;
    default:
      break;
  }
  const auto point = static_cast<utf8proc_int32_t>(c);
  AppendUtf8(static_cast<char32_t>(title ? utf8proc_totitle(point) : utf8proc_toupper(point)), out);
}

void AppendLower(char32_t c, bool ends_word, std::string* out) {
  if (c == 0x130) {
    out->append("i\xCC\x87");
  } else if (c == 0x3A3 && ends_word) {
    AppendUtf8(0x3C2, out);  // final sigma
  } else {
    AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
  }
}

// A letter that has one before and none after it.
bool EndsWord(std::string_view text, size_t begin, size_t end) {
  if (begin == 0 || !IsCased(PreviousCodePoint(text, &begin))) return false;
  return end >= text.size() || !IsCased(NextCodePoint(text, &end));
}

bool Contains(std::optional<std::string_view> characters, char32_t c) {
  if (!characters.has_value()) return IsSpace(c);
  for (size_t pos = 0; pos < characters->size();) {
    if (NextCodePoint(*characters, &pos) == c) return true;
  }
  return false;
}

std::vector<std::string> SplitAtSpace(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  text = StripLeft(text, std::nullopt);
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      size_t next = end;
      if (IsSpace(NextCodePoint(text, &next))) break;
      end = next;
    }
    parts.emplace_back(text.substr(0, end));
    text = StripLeft(text.substr(end), std::nullopt);
  }
  return parts;
}

std::vector<std::string> SplitAtSpaceFromRight(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  text = StripRight(text, std::nullopt);
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(text);
      break;
    }
    size_t begin = text.size();
    while (begin > 0) {
      size_t previous = begin;
      if (IsSpace(PreviousCodePoint(text, &previous))) break;
      begin = previous;
    }
    parts.emplace_back(text.substr(begin));
    text = StripRight(text.substr(0, begin), std::nullopt);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

bool IsLineEnd(char32_t c) {
  return (c >= 0xA && c <= 0xD) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace

bool IsSpace(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

int64_t Length(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::u32string ToCharacters(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) out.push_back(NextCodePoint(text, &pos));
  return out;
}

std::string FromCharacters(std::u32string_view characters) {
  std::string out;
  out.reserve(characters.size());
  for (char32_t c : characters) AppendUtf8(c, &out);
  return out;
}

std::vector<size_t> CharacterOffsets(std::string_view text) {
  std::vector<size_t> offsets;
  offsets.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) offsets.push_back(i);
  }
  offsets.push_back(text.size());
  return offsets;
}

std::string Upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) AppendUpper(NextCodePoint(text, &pos), false, &out);
  return out;
}

std::string Lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = NextCodePoint(text, &pos);
    AppendLower(c, c == 0x3A3 && EndsWord(text, begin, pos), &out);
  }
  return out;
}

std::string SwapCase(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextCodePoint(text, &pos);
    if (IsUpperLetter(c)) {
      AppendLower(c, false, &out);
    } else {
      AppendUpper(c, false, &out);
    }
  }
  return out;
}

std::string Capitalize(std::string_view text) {
  if (text.empty()) return {};
  std::string out;
  size_t pos = 0;
  AppendUpper(NextCodePoint(text, &pos), /*title=*/true, &out);
  return out + Lower(text.substr(pos));
}

std::string Title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextCodePoint(text, &pos);
    if (in_word) {
      AppendLower(c, false, &out);
    } else {
      AppendUpper(c, /*title=*/true, &out);
    }
    in_word = IsCased(c);
  }
  return out;
}

std::string_view StripLeft(std::string_view text, std::optional<std::string_view> characters) {
  while (!text.empty()) {
    size_t next = 0;
    if (!Contains(characters, NextCodePoint(text, &next))) break;
    text.remove_prefix(next);
  }
  return text;
}

std::string_view StripRight(std::string_view text, std::optional<std::string_view> characters) {
  while (!text.empty()) {
    size_t end = text.size();
    if (!Contains(characters, PreviousCodePoint(text, &end))) break;
    text = text.substr(0, end);
  }
  return text;
}

std::string_view Strip(std::string_view text, std::optional<std::string_view> characters) {
  return StripLeft(StripRight(text, characters), characters);
}

std::vector<std::string> SplitText(std::string_view text, std::optional<std::string_view> separator,
                                   int64_t limit, bool from_right) {
  if (!separator.has_value()) {
    return from_right ? SplitAtSpaceFromRight(text, limit) : SplitAtSpace(text, limit);
  }
  std::vector<std::string> parts;
  const auto more = [&] { return limit < 0 || static_cast<int64_t>(parts.size()) < limit; };
  while (more()) {
    const size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
    if (at == std::string_view::npos) break;
    const std::string_view before = text.substr(0, at);
    const std::string_view after = text.substr(at + separator->size());
    parts.emplace_back(from_right ? after : before);
    text = from_right ? before : after;
  }
  parts.emplace_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t end = pos;
    const char32_t c = NextCodePoint(text, &pos);
    if (!IsLineEnd(c)) continue;
    if (c == '\r' && pos < text.size() && text[pos] == '\n') ++pos;
    lines.emplace_back(text.substr(begin, (keep_ends ? pos : end) - begin));
    begin = pos;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::optional<std::string> ReplaceText(std::string_view text, std::string_view from,
                                       std::string_view to, int64_t limit, size_t max_bytes) {
  std::string out;
  size_t pos = 0;
  for (int64_t done = 0; limit < 0 || done < limit; ++done) {
    size_t at, next;
    if (from.empty()) {
      // Before each character, and at the end.
      if (done > 0) {
        if (pos >= text.size()) break;
        const size_t length = Utf8Length(text, pos);
        out.append(text, pos, length);
        pos += length;
      }
      at = next = pos;
    } else {
      at = text.find(from, pos);
      if (at == std::string_view::npos) break;
      next = at + from.size();
    }
    out.append(text, pos, at - pos);
    out.append(to);
    pos = next;
    if (out.size() > max_bytes) return std::nullopt;
  }
  out.append(text.substr(std::min(pos, text.size())));
  return out;
}

std::string Pad(std::string_view text, int64_t width, std::string_view fill, char align) {
  const int64_t missing = width - Length(text);
  if (missing <= 0) return std::string(text);
  int64_t left = 0;
  if (align == '>') left = missing;
  if (align == '^') left = missing / 2;
  if (align == 'c') left = missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out.append(fill);
  out.append(text);
  for (int64_t i = left; i < missing; ++i) out.append(fill);
  return out;
}

bool HasClass(std::string_view text, std::string_view name) {
  const auto all = [&](auto predicate) {
    for (size_t pos = 0; pos < text.size();) {
      if (!predicate(NextCodePoint(text, &pos))) return false;
    }
    return !text.empty();
  };
  if (name == "isalpha") return all(IsAlpha);
  if (name == "isdecimal") return all(IsDecimal);
  if (name == "isdigit") return all(IsDigit);
  if (name == "isnumeric") return all(IsNumeric);
  if (name == "isspace") return all(IsSpace);
  if (name == "isalnum") return all([](char32_t c) { return IsAlpha(c) || IsNumeric(c); });
  if (name == "isascii") return text.empty() || all([](char32_t c) { return c < 0x80; });
  if (name == "isprintable") return text.empty() || all(IsPrintable);
  if (name == "isidentifier") {
    size_t pos = 0;
    if (text.empty()) return false;
    const char32_t first = NextCodePoint(text, &pos);
    return (IsAlpha(first) || first == '_') &&
           all([](char32_t c) { return IsAlpha(c) || IsNumeric(c) || c == '_'; });
  }
  // islower, isupper, istitle: of the letters that have a case, at least one.
  bool any = false;
  bool in_word = false;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextCodePoint(text, &pos);
    const bool upper = IsUpperLetter(c) || IsTitleLetter(c);
    const bool lower = IsLowerLetter(c);
    if (name == "islower" && upper) return false;
    if (name == "isupper" && (lower || IsTitleLetter(c))) return false;
    if (name == "istitle" && ((upper && in_word) || (lower && !in_word))) return false;
    in_word = upper || lower;
    any = any || in_word;
  }
  return any;
}

std::string Quote(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextCodePoint(text, &pos);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out.append("\\n");
    } else if (c == '\r') {
      out.append("\\r");
    } else if (c == '\t') {
      out.append("\\t");
    } else if (IsPrintable(c)) {
      AppendUtf8(c, &out);
    } else if (c < 0x100) {
      out.append(fmt::format("\\x{:02x}", static_cast<uint32_t>(c)));
    } else if (c < 0x10000) {
      out.append(fmt::format("\\u{:04x}", static_cast<uint32_t>(c)));
    } else {
      out.append(fmt::format("\\U{:08x}", static_cast<uint32_t>(c)));
    }
  }
  out.push_back(quote);
  return out;
}

}  // namespace hostler::jinja
