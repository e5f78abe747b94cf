#include "engine/text/chars_map.h"

#include "engine/base/utf8.h"

namespace hostler {
namespace {

uint32_t ReadU32(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }

}  // namespace

// The size in bytes of a double-array trie (u32), its units (u32 each, in the
// format of Darts-clone), then the replacements, each ended by a zero. A key's
// value is where its replacement begins.
absl::StatusOr<CharsMap> CharsMap::Parse(const std::string& bytes) {
  CharsMap map;
  if (bytes.empty()) return map;
  if (bytes.size() < 4) return absl::InvalidArgumentError("precompiled_charsmap: too short");
  const uint32_t trie_bytes = ReadU32(bytes, 0);
  if (trie_bytes % 4 != 0 || trie_bytes > bytes.size() - 4) {
    return absl::InvalidArgumentError("precompiled_charsmap: the trie does not fit in");
  }
  for (size_t at = 4; at < 4 + size_t{trie_bytes}; at += 4) {
    map.units_.push_back(ReadU32(bytes, at));
  }
  map.replacements_ = bytes.substr(4 + size_t{trie_bytes});
  if (!map.replacements_.empty() && map.replacements_.back() != '\0') {
    return absl::InvalidArgumentError("precompiled_charsmap: a replacement without its end");
  }
  return map;
}

std::string_view CharsMap::Next(std::string_view text, size_t* pos) const {
  const size_t begin = *pos;
  const Match match = Find(text.substr(begin), /*shortest=*/false);
  if (const auto replacement = Replacement(match); replacement.has_value()) {
    *pos += match.length;
    return *replacement;
  }
  *pos += Utf8Length(text, begin);
  return text.substr(begin, *pos - begin);
}

std::optional<std::string_view> CharsMap::First(std::string_view text) const {
  return Replacement(Find(text, /*shortest=*/true));
}

std::optional<std::string_view> CharsMap::Replacement(const Match& match) const {
  if (match.length == 0 || match.value >= replacements_.size()) return std::nullopt;
  return std::string_view(replacements_.data() + match.value);
}

CharsMap::Match CharsMap::Find(std::string_view text, bool shortest) const {
  Match match;
  if (units_.empty()) return match;
  uint32_t at = Offset(units_[0]);
  for (size_t i = 0; i < text.size() && !(shortest && match.length > 0); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    at ^= byte;
    if (at >= units_.size()) break;
    const uint32_t unit = units_[at];
    if ((unit & (1u << 31 | 0xFF)) != byte) break;
    at ^= Offset(unit);
    if (at >= units_.size()) break;
    const bool is_key = (unit >> 8 & 1) != 0;
    // Keys end between characters, or the rest would not be UTF-8.
    const bool cuts = i + 1 < text.size() && (text[i + 1] & 0xC0) == 0x80;
    if (is_key && !cuts) match = {i + 1, units_[at] & ~(1u << 31)};
  }
  return match;
}

}  // namespace hostler
