#include "engine/text/jinja/lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "engine/base/status.h"
#include "engine/base/utf8.h"
#include "engine/text/jinja/py_string.h"
#include "fmt/format.h"

namespace hostler::jinja {
namespace {

constexpr std::string_view kOperators[] = {
    // Longest first.
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Bytes of the letter, digit or underscore at `pos`, or 0.
size_t NameCharacter(std::string_view text, size_t pos) {
  if (pos >= text.size()) return 0;
  const char c = text[pos];
  if ((c & 0x80) == 0) {
    return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ? 1 : 0;
  }
  const size_t length = Utf8Length(text, pos);
  return HasClass(text.substr(pos, length), "isalnum") ? length : 0;
}

// \r\n and \r become \n; one line break at the very end goes.
std::string NormalizeLines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
      continue;
    }
    out.push_back('\n');
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(NormalizeLines(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (pos_ < text_.size()) {
      HOSTLER_RETURN_IF_ERROR(Root());
    }
    Add(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Error(const std::string& message) const {
    return absl::InvalidArgumentError(fmt::format("chat template, line {}: {}", line_, message));
  }

  bool At(std::string_view what) const {
    return std::string_view(text_).substr(pos_).starts_with(what);
  }

  void Advance(size_t count) {
    line_ +=
        static_cast<int>(std::count(text_.begin() + static_cast<ptrdiff_t>(pos_),
                                    text_.begin() + static_cast<ptrdiff_t>(pos_ + count), '\n'));
    pos_ += count;
  }

  void SkipSpace() {
    const std::string_view rest = std::string_view(text_).substr(pos_);
    Advance(rest.size() - StripLeft(rest, std::nullopt).size());
  }

  Token& Add(TokenType type, std::string_view text) {
    tokens_.push_back(Token{.type = type, .text = std::string(text), .line = line_});
    return tokens_.back();
  }

  size_t FindTag(size_t from) const {
    for (size_t at = text_.find('{', from); at != std::string::npos; at = text_.find('{', at + 1)) {
      const char next = at + 1 < text_.size() ? text_[at + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return at;
    }
    return std::string::npos;
  }

  // The text before a tag: "{%-" takes its white space away, and a block or
  // comment alone on its line the line's indentation.
  std::string_view BeforeTag(std::string_view data, char sign, bool is_variable) const {
    if (sign == '-') return StripRight(data, std::nullopt);
    if (sign == '+' || is_variable) return data;
    const size_t newline = data.rfind('\n');
    if (newline == std::string_view::npos && !line_starting_) return data;
    const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
    const bool blank = StripLeft(data.substr(begin), std::nullopt).empty();
    return blank ? data.substr(0, begin) : data;
  }

  char SignAt(size_t at) const {
    const char c = at < text_.size() ? text_[at] : '\0';
    return c == '-' || c == '+' ? c : '\0';
  }

  // After a tag's closing mark: "-%}" eats all white space, a block or comment
  // the line break that follows it.
  void AfterTag(bool strip, bool trim) {
    const size_t before = pos_;
    if (strip) {
      SkipSpace();
    } else if (trim && At("\n")) {
      Advance(1);
    }
    line_starting_ = pos_ > before && text_[pos_ - 1] == '\n';
  }

  absl::Status Root() {
    const size_t tag = FindTag(pos_);
    if (tag == std::string::npos) {
      Add(TokenType::kData, std::string_view(text_).substr(pos_));
      Advance(text_.size() - pos_);
      return absl::OkStatus();
    }
    const char kind = text_[tag + 1];
    const char sign = SignAt(tag + 2);
    const std::string_view data = std::string_view(text_).substr(pos_, tag - pos_);
    const std::string_view kept = BeforeTag(data, sign, kind == '{');
    if (!kept.empty()) Add(TokenType::kData, kept);
    Advance(tag - pos_ + 2 + (sign == '\0' ? 0 : 1));
    if (kind == '#') return Comment();
    if (kind == '{') return Tag(TokenType::kVariableBegin, TokenType::kVariableEnd, "}}");
    if (const size_t raw = RawBegin(); raw != std::string::npos) return Raw(raw);
    return Tag(TokenType::kBlockBegin, TokenType::kBlockEnd, "%}");
  }

  absl::Status Comment() {
    const size_t end = text_.find("#}", pos_);
    if (end == std::string::npos) return Error("Missing end of comment tag");
    // The marks "-#}" and "+#}" may be all there is inside.
    const char sign = end > pos_ ? SignAt(end - 1) : '\0';
    Advance(end + 2 - pos_);
    AfterTag(sign == '-', /*trim=*/sign != '+');
    return absl::OkStatus();
  }

  // Where a "raw" tag that starts at pos_ ends, or npos.
  size_t RawBegin() const {
    std::string_view rest = StripLeft(std::string_view(text_).substr(pos_), std::nullopt);
    if (!rest.starts_with("raw")) return std::string::npos;
    rest = StripLeft(rest.substr(3), std::nullopt);
    const size_t at = text_.size() - rest.size();
    if (rest.starts_with("-%}")) return at + 3;
    return rest.starts_with("%}") ? at + 2 : std::string::npos;
  }

  absl::Status Raw(size_t begin) {
    const bool strip = text_[begin - 3] == '-';
    Advance(begin - pos_);
    AfterTag(strip, /*trim=*/false);
    for (size_t at = text_.find("{%", pos_); at != std::string::npos;
         at = text_.find("{%", at + 2)) {
      const char sign = SignAt(at + 2);
      std::string_view rest = std::string_view(text_).substr(at + 2 + (sign == '\0' ? 0 : 1));
      rest = StripLeft(rest, std::nullopt);
      if (!rest.starts_with("endraw")) continue;
      rest = StripLeft(rest.substr(6), std::nullopt);
      const char end_sign = rest.empty() ? '\0' : rest[0];
      const bool signed_end = end_sign == '-' || end_sign == '+';
      if (signed_end) rest.remove_prefix(1);
      if (!rest.starts_with("%}")) continue;
      const std::string_view data = std::string_view(text_).substr(pos_, at - pos_);
      const std::string_view kept = BeforeTag(data, sign, /*is_variable=*/false);
      if (!kept.empty()) Add(TokenType::kData, kept);
      Advance(text_.size() - rest.size() + 2 - pos_);
      AfterTag(end_sign == '-', /*trim=*/end_sign != '+');
      return absl::OkStatus();
    }
    return Error("Missing end of raw directive");
  }

  // True when the tag's closing mark is here; moves past it.
  bool Close(std::string_view mark, TokenType end) {
    const bool is_block = end == TokenType::kBlockEnd;
    if (At(mark)) {
      Add(end, mark);
      Advance(2);
      AfterTag(false, is_block);
      return true;
    }
    const char sign = SignAt(pos_);
    if (sign == '\0' || (sign == '+' && !is_block)) return false;
    if (!std::string_view(text_).substr(pos_ + 1).starts_with(mark)) return false;
    Add(end, mark);
    Advance(3);
    AfterTag(sign == '-', false);
    return true;
  }

  absl::Status Tag(TokenType begin, TokenType end, std::string_view mark) {
    Add(begin, "");
    std::string brackets;  // the closing ones that are due
    while (true) {
      SkipSpace();
      if (pos_ >= text_.size()) return Error("unexpected end of template");
      // Inside brackets "}}" closes two of them, not the tag.
      if (brackets.empty() && Close(mark, end)) return absl::OkStatus();
      const char c = text_[pos_];
      if (IsDigit(c)) {
        HOSTLER_RETURN_IF_ERROR(Number());
      } else if (size_t length = NameCharacter(text_, pos_); length > 0) {
        while (const size_t more = NameCharacter(text_, pos_ + length)) length += more;
        Add(TokenType::kName, std::string_view(text_).substr(pos_, length));
        Advance(length);
      } else if (c == '\'' || c == '"') {
        HOSTLER_RETURN_IF_ERROR(String(c));
      } else {
        HOSTLER_RETURN_IF_ERROR(Operator(&brackets));
      }
    }
  }

  absl::Status Operator(std::string* brackets) {
    for (std::string_view op : kOperators) {
      if (!At(op)) continue;
      const char c = op[0];
      if (c == '(') brackets->push_back(')');
      if (c == '[') brackets->push_back(']');
      if (c == '{') brackets->push_back('}');
      if (c == ')' || c == ']' || c == '}') {
        if (brackets->empty()) return Error(fmt::format("unexpected '{}'", c));
        if (brackets->back() != c) {
          return Error(fmt::format("unexpected '{}', expected '{}'", c, brackets->back()));
        }
        brackets->pop_back();
      }
      Add(TokenType::kOperator, op);
      Advance(op.size());
      return absl::OkStatus();
    }
    return Error(fmt::format("unexpected character '{}'",
                             text_.substr(pos_, std::max<size_t>(1, Utf8Length(text_, pos_)))));
  }

  // Digits of `base`, single underscores between them.
  std::string Digits(int base) {
    std::string digits;
    const auto is_digit = [&](size_t at) {
      if (at >= text_.size()) return false;
      const char c = static_cast<char>(text_[at] | 0x20);
      const int value = IsDigit(text_[at]) ? c - '0' : c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
      return value < base;
    };
    while (is_digit(pos_) || (At("_") && !digits.empty() && is_digit(pos_ + 1))) {
      if (text_[pos_] != '_') digits.push_back(text_[pos_]);
      ++pos_;
    }
    return digits;
  }

  absl::Status Number() {
    int base = 10;
    if (text_[pos_] == '0' && pos_ + 1 < text_.size()) {
      const char mark = static_cast<char>(text_[pos_ + 1] | 0x20);
      base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    }
    if (base != 10) pos_ += 2;
    std::string digits = Digits(base);
    bool is_float = false;
    // "a.0.b" has integers for subscripts, not floats.
    const bool after_dot = !tokens_.empty() && tokens_.back().type == TokenType::kOperator &&
                           tokens_.back().text == ".";
    if (base == 10 && !after_dot) {
      if (At(".") && pos_ + 1 < text_.size() && IsDigit(text_[pos_ + 1])) {
        ++pos_;
        digits += "." + Digits(10);
        is_float = true;
      }
      if (At("e") || At("E")) {
        const size_t sign = SignAt(pos_ + 1) == '\0' ? 0 : 1;
        if (pos_ + 1 + sign < text_.size() && IsDigit(text_[pos_ + 1 + sign])) {
          digits += "e";
          if (sign == 1 && text_[pos_ + 1] == '-') digits += "-";
          pos_ += 1 + sign;
          digits += Digits(10);
          is_float = true;
        }
      }
    }
    Token& token = Add(is_float ? TokenType::kFloat : TokenType::kInteger, digits);
    const char* first = digits.data();
    const char* last = first + digits.size();
    const std::errc error = is_float ? std::from_chars(first, last, token.real).ec
                                     : std::from_chars(first, last, token.integer, base).ec;
    if (is_float && error == std::errc::result_out_of_range) {
      token.real = std::strtod(digits.c_str(), nullptr);  // infinity, or nothing
      return absl::OkStatus();
    }
    if (error != std::errc()) return Error(fmt::format("bad number '{}'", digits));
    return absl::OkStatus();
  }

  absl::Status String(char quote) {
    const int line = line_;
    size_t end = pos_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) return Error("a string without an end");
    HOSTLER_ASSIGN_OR_RETURN(std::string value,
                             Unescape(std::string_view(text_).substr(pos_ + 1, end - pos_ - 1)));
    Advance(end + 1 - pos_);
    Add(TokenType::kString, value).line = line;
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Unescape(std::string_view raw) const {
    static constexpr std::string_view kLetters = "abfnrtv\\'\"";
    static constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
    std::string out;
    for (size_t i = 0; i < raw.size(); ++i) {
      if (raw[i] != '\\' || i + 1 >= raw.size()) {
        out.push_back(raw[i]);
        continue;
      }
      const char c = raw[++i];
      if (c == '\n') continue;
      const size_t known = kLetters.find(c);
      const int hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
      if (known != std::string_view::npos) {
        out.push_back(kMeanings[known]);
      } else if (hex > 0) {
        const std::string_view digits = raw.substr(std::min(i + 1, raw.size()), hex);
        uint32_t code = 0;
        const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
        if (static_cast<int>(digits.size()) != hex || result.ptr != digits.data() + hex ||
            code > 0x10FFFF) {
          return Error(fmt::format("bad escape '\\{}{}'", c, digits));
        }
        AppendUtf8(code >= 0xD800 && code < 0xE000 ? 0xFFFD : code, &out);
        i += static_cast<size_t>(hex);
      } else if (c >= '0' && c <= '7') {
        uint32_t code = 0;
        size_t count = 0;
        while (count < 3 && i + count < raw.size() && raw[i + count] >= '0' &&
               raw[i + count] <= '7') {
          code = code * 8 + static_cast<uint32_t>(raw[i + count++] - '0');
        }
        AppendUtf8(code, &out);
        i += count - 1;
      } else {
        out.push_back('\\');  // as it stands
        out.push_back(c);
      }
    }
    return out;
  }

  const std::string text_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) { return Lexer(source).Run(); }

}  // namespace hostler::jinja
