#include "router/quality/default_router.h"

asm(".pushsection .rodata\n"
    "hostler_default_router: .incbin \"" HOSTLER_DEFAULT_ROUTER
    "\"\n"
    "hostler_default_router_end: .byte 0\n"
    ".popsection\n");

extern "C" const char hostler_default_router[], hostler_default_router_end[];

namespace hostler {

std::string_view DefaultRouterBytes() {
  return {hostler_default_router,
          static_cast<size_t>(hostler_default_router_end - hostler_default_router)};
}

}  // namespace hostler
