// The bodies of OpenAI requests.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "server/openai/requests.h"

// The first byte says which kind.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      (void)hostler::ParseChatRequest(body);
      break;
    case 1:
      (void)hostler::ParseCompletionRequest(body);
      break;
    case 2:
      (void)hostler::ParseTokenizeRequest(body);
      break;
    default:
      (void)hostler::ParseDetokenizeRequest(body);
  }
  return 0;
}
