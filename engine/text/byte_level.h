// The reversible map byte → printable character of byte-level vocabularies
// (GPT-2): printable Latin-1 stands for itself, the rest for U+0100 and up.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace hostler {

// Each byte of `bytes` as its character.
void AppendByteLevel(std::string_view bytes, std::string* out);

// The bytes that `text` stands for; nullopt if one of its characters stands
// for none, or if it is not UTF-8.
std::optional<std::string> ByteLevelToBytes(std::string_view text);

}  // namespace hostler
