#include "engine/text/byte_level.h"

#include <array>
#include <cstdint>

#include "engine/base/utf8.h"

namespace hostler {
namespace {

constexpr int kCharacters = 0x144;  // one past the highest character used

struct ByteLevelMap {
  std::array<std::string, 256> character;
  std::array<int16_t, kCharacters> byte;  // -1: stands for none

  ByteLevelMap() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable =
          (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
      const char32_t c = printable ? static_cast<char32_t>(b) : next++;
      AppendUtf8(c, &character[b]);
      byte[c] = static_cast<int16_t>(b);
    }
  }
};

const ByteLevelMap& Map() {
  static const ByteLevelMap map;
  return map;
}

}  // namespace

void AppendByteLevel(std::string_view bytes, std::string* out) {
  const ByteLevelMap& map = Map();
  for (unsigned char b : bytes) out->append(map.character[b]);
}

std::optional<std::string> ByteLevelToBytes(std::string_view text) {
  if (!IsUtf8(text)) return std::nullopt;
  const ByteLevelMap& map = Map();
  std::string bytes;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextCodePoint(text, &pos);
    if (c >= kCharacters || map.byte[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(map.byte[c]));
  }
  return bytes;
}

}  // namespace hostler
