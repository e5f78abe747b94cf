// A chat template: parsed, and rendered over a conversation that has
// everything.
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/text/chat_template.h"
#include "nlohmann/json.hpp"

namespace {

constexpr char kConversation[] = R"({
  "messages": [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi \u00e9\ud83d\ude00"},
                                 {"type": "image_url", "image_url": {"url": "x"}}]},
    {"role": "assistant", "content": null, "reasoning_content": "hm",
     "tool_calls": [{"id": "call_1", "type": "function",
                     "function": {"name": "add", "arguments": {"a": 1, "b": -2.5e10, "c": [true, null]}}}]},
    {"role": "tool", "tool_call_id": "call_1", "name": "add", "content": "3"},
    {"role": "assistant", "content": "<think>\nso\n</think>\n\n  Three. "},
    {"role": "user", "content": "Thanks, {{ name }}!"}],
  "tools": [{"type": "function", "function": {"name": "add", "description": "Adds.",
             "parameters": {"type": "object", "required": ["a"],
                            "properties": {"a": {"type": "integer", "enum": [1, 2]},
                                           "b": {"type": ["number", "null"]}}}}}],
  "documents": [{"title": "T", "text": "A text"}],
  "add_generation_prompt": true, "enable_thinking": false, "bos_token": "<s>",
  "eos_token": "</s>", "unk_token": "<unk>", "n": 9223372036854775807, "now": "2025-06-01T12:00:00"
})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto variables = nlohmann::ordered_json::parse(kConversation);
  const auto parsed =
      hostler::ParseChatTemplate(std::string(reinterpret_cast<const char*>(data), size));
  if (parsed.ok()) (void)(*parsed)->Render(variables);
  return 0;
}
