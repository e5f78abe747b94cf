#include "server/commands/token_list.h"

#include <charconv>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "server/commands/terminal.h"

namespace hostler {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(std::string_view text) {
  text = Trim(text);
  if (text.starts_with('[')) {
    if (!text.ends_with(']'))
      return absl::InvalidArgumentError("a list of token ids lacks its ']'");
    text = text.substr(1, text.size() - 2);
  }
  std::vector<int32_t> ids;
  size_t at = 0;
  while ((at = text.find_first_not_of(" \t\r\n,", at)) != std::string_view::npos) {
    const size_t end = std::min(text.find_first_of(" \t\r\n,", at), text.size());
    const std::string_view word = text.substr(at, end - at);
    int32_t id = 0;
    auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || stop != word.data() + word.size() || id < 0) {
      return absl::InvalidArgumentError(fmt::format("'{}' is no token id", word.substr(0, 40)));
    }
    ids.push_back(id);
    at = end;
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> ReadTokensFlag(const std::string& value) {
  std::string text = value;
  if (value.starts_with('@')) {
    HOSTLER_ASSIGN_OR_RETURN(text, ReadFile(value.substr(1)));
  }
  auto ids = ParseTokenIds(text);
  if (ids.ok() && ids->empty()) return absl::InvalidArgumentError("--tokens has no token ids");
  return ids;
}

}  // namespace hostler
