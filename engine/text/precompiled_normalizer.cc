#include "engine/text/precompiled_normalizer.h"

#include <utf8proc.h>

#include <optional>
#include <string_view>
#include <utility>

#include "engine/base/utf8.h"
#include "engine/text/chars_map.h"

namespace hostler {
namespace {

int Base64Digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

std::optional<std::string> FromBase64(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    const int digit = Base64Digit(c);
    if (digit < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out.push_back(static_cast<char>(bits >> count & 0xFF));
  }
  return out;
}

// Looks up whole graphemes if they are short, else their characters. What is
// looked up becomes what its shortest key becomes, whatever follows the key.
class Precompiled : public Normalizer {
 public:
  explicit Precompiled(CharsMap map) : map_(std::move(map)) {}

  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    const size_t most = MostNormalizedBytes(text.size());
    for (size_t pos = 0; pos < text.size();) {
      if (out.size() > most) {
        out.append(text, pos);
        break;
      }
      const size_t end = GraphemeEnd(text, pos);
      AppendGrapheme(std::string_view(text).substr(pos, end - pos), &out);
      pos = end;
    }
    return IsUtf8(out) ? out : ReplaceBadBytes(out);
  }

 private:
  static constexpr size_t kShort = 6;  // bytes; shorter graphemes are looked up

  static size_t GraphemeEnd(const std::string& text, size_t pos) {
    auto previous = static_cast<utf8proc_int32_t>(NextCodePoint(text, &pos));
    utf8proc_int32_t state = 0;
    while (pos < text.size()) {
      size_t next = pos;
      const auto c = static_cast<utf8proc_int32_t>(NextCodePoint(text, &next));
      if (utf8proc_grapheme_break_stateful(previous, c, &state)) break;
      previous = c;
      pos = next;
    }
    return pos;
  }

  void AppendGrapheme(std::string_view grapheme, std::string* out) const {
    if (grapheme.size() < kShort) {
      if (const auto whole = map_.First(grapheme); whole.has_value()) {
        out->append(*whole);
        return;
      }
    }
    for (size_t pos = 0; pos < grapheme.size();) {
      const std::string_view character = grapheme.substr(pos, Utf8Length(grapheme, pos));
      out->append(map_.First(character).value_or(character));
      pos += character.size();
    }
  }

  CharsMap map_;
};

class Nmt : public Normalizer {
 public:
  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const char32_t c = NextCodePoint(text, &pos);
      if (IsSpace(c)) {
        out.push_back(' ');
      } else if (!IsDropped(c)) {
        out.append(text, begin, pos - begin);
      }
    }
    return out;
  }

 private:
  static bool IsDropped(char32_t c) {
    return (c >= 0x1 && c <= 0x8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F ||
           c == 0x8F || c == 0x9F;
  }
  static bool IsSpace(char32_t c) {
    return c == '\t' || c == '\n' || c == 0xC || c == '\r' || c == 0x1680 ||
           (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
           c == 0xFEFF || c == 0xFFFD;
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> NewPrecompiledNormalizer(const std::string& base64) {
  const std::optional<std::string> bytes = FromBase64(base64);
  if (!bytes.has_value()) {
    return absl::InvalidArgumentError("precompiled_charsmap: not base64");
  }
  absl::StatusOr<CharsMap> map = CharsMap::Parse(*bytes);
  if (!map.ok()) return map.status();
  return std::make_unique<Precompiled>(*std::move(map));
}

std::unique_ptr<Normalizer> NewNmtNormalizer() { return std::make_unique<Nmt>(); }

}  // namespace hostler
