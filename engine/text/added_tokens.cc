#include "engine/text/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "engine/base/utf8.h"

namespace hostler {
namespace {

bool IsWordCharacter(char32_t c) {
  if (c == 0x200C || c == 0x200D) return true;  // the joiners
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool IsSpace(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool TouchesWord(std::string_view text, size_t begin, size_t end) {
  if (begin > 0) {
    size_t at = begin;
    if (IsWordCharacter(PreviousCodePoint(text, &at))) return true;
  }
  if (end >= text.size()) return false;
  return IsWordCharacter(NextCodePoint(text, &end));
}

// Where the white space that ends at `pos` begins; not before `limit`.
size_t SpaceBefore(std::string_view text, size_t pos, size_t limit) {
  while (pos > limit) {
    size_t at = pos;
    if (!IsSpace(PreviousCodePoint(text, &at)) || at < limit) break;
    pos = at;
  }
  return pos;
}

size_t SpaceAfter(std::string_view text, size_t pos) {
  while (pos < text.size()) {
    size_t at = pos;
    if (!IsSpace(NextCodePoint(text, &at))) break;
    pos = at;
  }
  return pos;
}

}  // namespace

void AddedTokenMatcher::Add(const AddedToken& token, std::string_view content) {
  if (content.empty()) return;
  uint32_t node = 0;
  for (unsigned char byte : content) {
    const auto next = static_cast<uint32_t>(token_at_.size());
    const auto [it, inserted] = edges_.try_emplace(uint64_t{node} << 8 | byte, next);
    if (inserted) token_at_.push_back(-1);
    node = it->second;
  }
  if (token_at_[node] >= 0) return;  // the first of those that normalize alike
  token_at_[node] = static_cast<int>(tokens_.size());
  tokens_.push_back(token);
  starts_[static_cast<unsigned char>(content[0])] = true;
}

AddedTokenMatcher::Match AddedTokenMatcher::Longest(std::string_view text, size_t pos) const {
  Match match;
  if (!starts_[static_cast<unsigned char>(text[pos])]) return match;
  uint32_t node = 0;
  for (size_t i = pos; i < text.size(); ++i) {
    const auto it = edges_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (it == edges_.end()) break;
    node = it->second;
    if (token_at_[node] >= 0) match = {i + 1, token_at_[node]};
  }
  return match;
}

void AddedTokenMatcher::Split(std::string_view text, std::vector<Segment>* segments) const {
  size_t done = 0;
  for (size_t pos = tokens_.empty() ? text.size() : 0; pos < text.size();) {
    const Match match = Longest(text, pos);
    if (match.end == 0) {
      ++pos;
      continue;
    }
    const AddedToken& token = tokens_[match.token];
    size_t begin = pos, end = match.end;
    pos = match.end;
    if (token.single_word && TouchesWord(text, begin, end)) continue;
    if (token.lstrip) begin = SpaceBefore(text, begin, done);
    if (token.rstrip) pos = end = SpaceAfter(text, end);
    if (begin > done) segments->push_back({-1, text.substr(done, begin - done)});
    segments->push_back({token.id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) segments->push_back({-1, text.substr(done)});
}

}  // namespace hostler
