// What `hostler top` shows: text made of two answers of GET /admin/cache.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace hostler {

// With "?" for what could be more than text to a terminal.
std::string Printable(std::string text);

// Parses an answer. Errors: FailedPrecondition when it is not such an answer.
absl::StatusOr<nlohmann::json> ParseCacheAnswer(std::string_view body);

struct FrameOptions {
  int width = 80;  // columns; lines are broken or cut there
  bool color = false;
  bool utf8 = true;  // else ASCII alone
};

// A frame of every model that `now` tells of, lines ending in "\n". Rates are
// what grew since `before`, taken `seconds` earlier; a model that `before` lacks
// has none. Bytes from the server never reach a terminal as control characters.
std::string RenderFrame(const nlohmann::json& before, const nlohmann::json& now, double seconds,
                        const FrameOptions& options);

}  // namespace hostler
