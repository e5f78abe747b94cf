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

// What became of a prompt's embedding.
enum class EmbeddingUse {
  kNone,       // nothing asks for one
  kUsed,       // the decision has it
  kSkipped,    // it would have taken too long
  kFailed,     // it could not be computed
  kNoEncoder,  // the router was trained with one, of which there is no encoder here
};
// "used", "skipped", "failed", "no_encoder"; "" for kNone.
const char* EmbeddingUseName(EmbeddingUse use);

// Text that lies in several parts is put together in `storage`.
RoutePrompt ReadRoutePrompt(const GenerateRequest& request, std::string* storage);

}  // namespace hostler
