#include "engine/base/utf8.h"

namespace hostler {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// What stands at a position: `length` bytes that are a character (`valid`), or
// its longest well-formed beginning (at least 1 byte). `cut`: the text ended
// inside it.
struct Scan {
  size_t length = 1;
  bool valid = false;
  bool cut = false;
};

Scan ScanCharacter(std::string_view text, size_t pos) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(pos);
  if (first < 0x80) return {1, true, false};
  size_t need;
  unsigned char low = 0x80, high = 0xBF;  // bounds of the second byte
  if (first >= 0xC2 && first <= 0xDF) {
    need = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    need = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;  // surrogates
  } else if (first >= 0xF0 && first <= 0xF4) {
    need = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return {1, false, false};
  }
  for (size_t i = 1; i < need; ++i) {
    if (pos + i >= text.size()) return {i, false, true};
    if (byte(pos + i) < low || byte(pos + i) > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {need, true, false};
}

}  // namespace

size_t Utf8Length(std::string_view text, size_t pos) {
  if (pos >= text.size()) return 0;
  const Scan scan = ScanCharacter(text, pos);
  return scan.valid ? scan.length : 0;
}

bool IsUtf8(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    const Scan scan = ScanCharacter(text, pos);
    if (!scan.valid) return false;
    pos += scan.length;
  }
  return true;
}

char32_t NextCodePoint(std::string_view text, size_t* pos) {
  const auto byte = [&](size_t i) -> char32_t {
    return static_cast<unsigned char>(text[*pos + i]);
  };
  const char32_t first = byte(0);
  char32_t result;
  if (first < 0x80) {
    result = first;
    *pos += 1;
  } else if (first < 0xE0) {
    result = (first & 0x1F) << 6 | (byte(1) & 0x3F);
    *pos += 2;
  } else if (first < 0xF0) {
    result = (first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    *pos += 3;
  } else {
    result =
        (first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    *pos += 4;
  }
  return result;
}

char32_t PreviousCodePoint(std::string_view text, size_t* pos) {
  do {
    --*pos;
  } while (*pos > 0 && (static_cast<unsigned char>(text[*pos]) & 0xC0) == 0x80);
  size_t at = *pos;
  return NextCodePoint(text, &at);
}

void AppendUtf8(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    out->push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

std::string ReplaceBadBytes(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Scan scan = ScanCharacter(text, pos);
    if (scan.valid) {
      out.append(text, pos, scan.length);
    } else {
      for (size_t i = 0; i < scan.length; ++i) out.append(kReplacement);
    }
    pos += scan.length;
  }
  return out;
}

size_t AppendMended(std::string_view bytes, bool final, std::string* out) {
  size_t pos = 0;
  while (pos < bytes.size()) {
    const Scan scan = ScanCharacter(bytes, pos);
    if (scan.cut && !final) break;
    if (scan.valid) {
      out->append(bytes, pos, scan.length);
    } else {
      out->append(kReplacement);
    }
    pos += scan.length;
  }
  return pos;
}

}  // namespace hostler
