#include <cstring>
#include <utility>

#include "engine/base/utf8.h"
#include "engine/text/sentencepiece.h"

namespace hostler {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";

uint32_t ReadU32(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

// A "precompiled_charsmap": the size in bytes of a double-array trie (u32), its
// units (u32 each, in the format of Darts-clone), then the replacements, each
// ended by a zero. A key's value is where its replacement begins.
class CharsMap {
 public:
  static absl::StatusOr<CharsMap> Parse(std::string bytes) {
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

  // What the longest key at `pos`, or else the character there, becomes; moves
  // *pos behind it.
  std::string_view Next(std::string_view text, size_t* pos) const {
    const size_t begin = *pos;
    size_t length = 0;
    uint32_t value = 0;
    if (!units_.empty()) Longest(text.substr(begin), &length, &value);
    if (length > 0 && value < replacements_.size()) {
      *pos += length;
      return replacements_.data() + value;
    }
    *pos += Utf8Length(text, begin);
    return text.substr(begin, *pos - begin);
  }

 private:
  static uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }

  void Longest(std::string_view text, size_t* length, uint32_t* value) const {
    uint32_t at = Offset(units_[0]);
    for (size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      at ^= byte;
      if (at >= units_.size()) return;
      const uint32_t unit = units_[at];
      if ((unit & (1u << 31 | 0xFF)) != byte) return;
      at ^= Offset(unit);
      if (at >= units_.size()) return;
      const bool is_key = (unit >> 8 & 1) != 0;
      // Keys end between characters, or the rest would not be UTF-8.
      const bool cuts = i + 1 < text.size() && (text[i + 1] & 0xC0) == 0x80;
      if (is_key && !cuts) {
        *length = i + 1;
        *value = units_[at] & ~(1u << 31);
      }
    }
  }

  std::vector<uint32_t> units_;
  std::string replacements_;
};

class SentencePieceNormalizer : public Normalizer {
 public:
  SentencePieceNormalizer(CharsMap map, bool remove_extra)
      : map_(std::move(map)), remove_extra_(remove_extra) {}

  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size() + text.size() / 2);
    bool after_space = remove_extra_;
    for (size_t pos = 0; pos < text.size();) {
      for (char c : map_.Next(text, &pos)) {
        if (c != ' ') {
          out.push_back(c);
        } else if (!after_space) {
          out.append(kSpace);
        }
        after_space = remove_extra_ && c == ' ';
      }
    }
    if (remove_extra_ && after_space && !out.empty()) out.resize(out.size() - kSpace.size());
    return IsUtf8(out) ? out : ReplaceBadBytes(out);
  }

 private:
  CharsMap map_;
  bool remove_extra_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> NewSentencePieceNormalizer(
    std::string charsmap, bool remove_extra_whitespaces) {
  absl::StatusOr<CharsMap> map = CharsMap::Parse(std::move(charsmap));
  if (!map.ok()) return map.status();
  return std::make_unique<SentencePieceNormalizer>(*std::move(map), remove_extra_whitespaces);
}

}  // namespace hostler
