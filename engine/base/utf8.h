// UTF-8: reading, writing and mending.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace hostler {

// Bytes of the well-formed character at `pos`, or 0 when there is none.
size_t Utf8Length(std::string_view text, size_t pos);

bool IsUtf8(std::string_view text);

// The character at *pos, which moves past it. REQUIRES: well-formed text.
char32_t NextCodePoint(std::string_view text, size_t* pos);

// The character that ends before *pos, which moves to its start. REQUIRES:
// well-formed text, *pos > 0.
char32_t PreviousCodePoint(std::string_view text, size_t* pos);

void AppendUtf8(char32_t code_point, std::string* out);

// Each byte that belongs to no well-formed character becomes U+FFFD.
std::string ReplaceBadBytes(std::string_view text);

// Appends `bytes` to `out`, with U+FFFD for each maximal ill-formed part
// (Unicode, section 3.9). Unless `final`, an unfinished character at the end
// is left out. Returns the bytes consumed.
size_t AppendMended(std::string_view bytes, bool final, std::string* out);

}  // namespace hostler
