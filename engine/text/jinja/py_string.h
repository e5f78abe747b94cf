// Python's str, over UTF-8. Everything counts characters, not bytes.
// REQUIRES: well-formed UTF-8 throughout.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hostler::jinja {

bool IsSpace(char32_t c);

int64_t Length(std::string_view text);

std::u32string ToCharacters(std::string_view text);
std::string FromCharacters(std::u32string_view characters);

// Where the characters begin; one more entry for the end.
std::vector<size_t> CharacterOffsets(std::string_view text);

std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string SwapCase(std::string_view text);
std::string Capitalize(std::string_view text);
std::string Title(std::string_view text);  // str.title, not the filter

// Without `characters`, white space.
std::string_view StripLeft(std::string_view text, std::optional<std::string_view> characters);
std::string_view StripRight(std::string_view text, std::optional<std::string_view> characters);
std::string_view Strip(std::string_view text, std::optional<std::string_view> characters);

// At most `limit` cuts (negative: any number), from the left or the right.
// Without a separator: at white space. REQUIRES: the separator is not empty.
std::vector<std::string> SplitText(std::string_view text, std::optional<std::string_view> separator,
                                   int64_t limit, bool from_right);
std::vector<std::string> SplitLines(std::string_view text, bool keep_ends);

// At most `limit` times (negative: any number). An empty `from` matches
// between all characters. Nullopt when it would exceed `max_bytes`.
std::optional<std::string> ReplaceText(std::string_view text, std::string_view from,
                                       std::string_view to, int64_t limit, size_t max_bytes);

// In `width` characters, aligned to the left '<', the right '>', centred as
// format does it '^' or as str.center does 'c' (an odd space goes elsewhere).
std::string Pad(std::string_view text, int64_t width, std::string_view fill, char align);

// str.isalpha and so on. `name` is the method's.
bool HasClass(std::string_view text, std::string_view name);

// As Python's repr writes it.
std::string Quote(std::string_view text);

}  // namespace hostler::jinja
