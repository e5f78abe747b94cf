// What upstreams answer, and the changing of what they are sent.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "router/upstream/answer_reader.h"
#include "router/upstream/errors.h"
#include "router/upstream/json_edit.h"
#include "router/upstream/sse.h"
#include "router/upstream/url.h"

namespace hostler {
namespace {

constexpr size_t kMaxEventBytes = 1024;

// Fed in pieces or at once, a stream must say the same.
void ReadStream(std::string_view text, size_t piece, bool chat) {
  SseReader whole(kMaxEventBytes), pieces(kMaxEventBytes);
  std::vector<std::string> events, again;
  const absl::Status status = whole.Feed(text, &events);
  absl::Status cut;
  for (size_t at = 0; at < text.size() && cut.ok(); at += piece) {
    cut = pieces.Feed(text.substr(at, piece), &again);
  }
  if (status.ok() != cut.ok() || (status.ok() && events != again)) __builtin_trap();
  AnswerReader reader({.upstream = "up", .n = 2, .chat = chat, .pass_through = true});
  std::vector<GenerateEvent> read;
  for (std::string& event : events) {
    if (!reader.ReadChunk(std::move(event), &read).ok()) break;
  }
  for (const GenerateEvent& event : read) {
    if (event.index < 0 || event.index > 1) __builtin_trap();
  }
}

// Valid JSON must stay that, and have the new value.
void Edit(std::string_view text) {
  const absl::StatusOr<std::string> edited = EditJson(text, {{"model", "\"new\""}});
  const absl::StatusOr<Json> before = ParseJson(text);
  if (!before.ok() || !before->is_object()) return;
  if (!edited.ok()) __builtin_trap();
  const absl::StatusOr<Json> after = ParseJson(*edited);
  if (!after.ok()) __builtin_trap();
  const Json* model = FindKey(*after, "model");
  if (model == nullptr || *model != "new") __builtin_trap();
}

}  // namespace
}  // namespace hostler

// The first byte says which kind.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const uint8_t kind = data[0];
  std::vector<hostler::GenerateEvent> events;
  switch (kind % 4) {
    case 0:
      hostler::ReadStream(text, 1 + kind / 8, kind & 4);
      break;
    case 1:
      hostler::Edit(text);
      break;
    case 2: {
      hostler::AnswerReader reader({.upstream = "up", .n = 1, .chat = (kind & 4) != 0});
      (void)reader.ReadWhole(std::string(text), &events);
      break;
    }
    default:
      (void)hostler::ParseUpstreamUrl(std::string(text));
      (void)hostler::ParseRetryAfter(text);
      (void)hostler::HttpError("up", {400 + kind, "text/plain", std::string(text), 1}, true);
  }
  return 0;
}
