// RoutePrompt: what of a request tells how hard it is.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "engine/engine/request.h"

namespace hostler {

// Views into the request it was made of, or into `storage`.
struct RoutePrompt {
  std::string_view text;          // the last user message
  std::string_view context = {};  // what came before, ""
  int messages = 1;               // of a chat
  bool tools = false;             // the request brings tools
  // Of the text, as long as the router was trained with; empty: none.
  std::span<const float> embedding = {};
};

// Text that lies in several parts is put together in `storage`.
RoutePrompt ReadRoutePrompt(const GenerateRequest& request, std::string* storage);

}  // namespace hostler
