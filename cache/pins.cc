#include "cache/pins.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>

namespace hostler {
namespace {

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r";
  const size_t first = text.find_first_not_of(kBlanks);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

std::optional<int> ParseNumber(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

struct Pins {
  int layer = 0, first = 0, last = 0;
};

absl::StatusOr<Pins> ParseLine(std::string_view line, std::span<const int> experts) {
  const size_t blank = line.find_first_of(" \t");
  if (blank == line.npos) return absl::InvalidArgumentError("is not \"layer expert\"");
  const std::optional<int> layer = ParseNumber(line.substr(0, blank));
  const std::string_view range = Trim(line.substr(blank));
  const size_t dash = range.find('-');
  const std::optional<int> first = ParseNumber(range.substr(0, dash));
  const std::optional<int> last =
      dash == range.npos ? first : ParseNumber(range.substr(std::min(dash + 1, range.size())));
  if (!layer || !first || !last) {
    return absl::InvalidArgumentError("is neither \"layer expert\" nor \"layer first-last\"");
  }
  if (size_t(*layer) >= experts.size()) {
    return absl::InvalidArgumentError(fmt::format(
        "there is no layer {}; the model has {} layers with experts", *layer, experts.size()));
  }
  if (*first > *last) {
    return absl::InvalidArgumentError(fmt::format("{}-{} goes backwards", *first, *last));
  }
  if (*last >= experts[*layer]) {
    return absl::InvalidArgumentError(fmt::format("there is no expert {}; layer {} has {} experts",
                                                  *last, *layer, experts[*layer]));
  }
  return Pins{*layer, *first, *last};
}

}  // namespace

absl::StatusOr<std::vector<ExpertKey>> ParsePins(std::string_view text,
                                                 std::span<const int> experts) {
  std::vector<std::vector<bool>> pinned;
  for (const int count : experts) pinned.emplace_back(count, false);
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view whole = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::string_view line = Trim(whole.substr(0, whole.find('#')));
    if (line.empty()) continue;
    const absl::StatusOr<Pins> pins = ParseLine(line, experts);
    if (!pins.ok()) {
      return absl::InvalidArgumentError(
          fmt::format("line {}: {}", number, std::string(pins.status().message())));
    }
    for (int expert = pins->first; expert <= pins->last; ++expert) {
      pinned[pins->layer][expert] = true;
    }
  }
  std::vector<ExpertKey> keys;
  for (size_t layer = 0; layer < pinned.size(); ++layer) {
    for (size_t expert = 0; expert < pinned[layer].size(); ++expert) {
      if (pinned[layer][expert])
        keys.push_back({static_cast<int>(layer), static_cast<int>(expert)});
    }
  }
  return keys;
}

}  // namespace hostler
