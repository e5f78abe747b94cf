#include "engine/text/tokenizer.h"

#include <algorithm>

#include "engine/base/utf8.h"

namespace hostler {

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  const TextEdges trimmed = edges();
  std::string bytes;
  bool at_first = trimmed.first != FirstSpace::kKeep;
  for (int32_t id : ids) {
    const bool special = IsSpecial(id);
    if (special && skip_special) continue;
    const std::string token = TokenBytes(id);
    size_t drop = 0;
    if (at_first && !(special && trimmed.first == FirstSpace::kDropOfText)) {
      const size_t spaces = std::min(token.find_first_not_of(' '), token.size());
      drop =
          trimmed.first == FirstSpace::kDropAllOfFirstToken ? spaces : std::min<size_t>(spaces, 1);
      at_first = false;
    }
    bytes.append(token, drop);
  }
  if (trimmed.drop_last_space && bytes.ends_with(' ')) bytes.pop_back();
  std::string text;
  AppendMended(bytes, /*final=*/true, &text);
  return text;
}

}  // namespace hostler
