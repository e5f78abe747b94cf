#include "engine/text/tokenizer.h"

#include "engine/text/utf8.h"

namespace hostler {

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (int32_t id : ids) {
    if (!skip_special || !IsSpecial(id)) bytes += TokenBytes(id);
  }
  std::string text;
  AppendMended(bytes, /*final=*/true, &text);
  return text;
}

}  // namespace hostler
