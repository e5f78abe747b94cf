#include "engine/text/tokenizer.h"

#include "engine/base/utf8.h"

namespace hostler {

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  bool drop_space = adds_first_space();
  for (int32_t id : ids) {
    const bool special = IsSpecial(id);
    if (special && skip_special) continue;
    const std::string token = TokenBytes(id);
    const bool drop = drop_space && !special && token.starts_with(' ');
    bytes.append(token, drop ? 1 : 0);
    if (!special) drop_space = false;
  }
  std::string text;
  AppendMended(bytes, /*final=*/true, &text);
  return text;
}

}  // namespace hostler
