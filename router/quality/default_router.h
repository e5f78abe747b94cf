// The router that comes with the program: deploy/router.bin, built in.
#pragma once

#include <string_view>

namespace hostler {

// Names it where a router file can be named.
inline constexpr std::string_view kDefaultRouter = "default";

std::string_view DefaultRouterBytes();

}  // namespace hostler
