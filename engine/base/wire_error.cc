#include "engine/base/wire_error.h"

#include <charconv>
#include <string_view>

#include "absl/strings/cord.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr char kPayload[] = "hostler/wire_error";

// The number at the start of `text`, taken off with the line end behind it.
int TakeNumber(std::string_view* text) {
  int number = 0;
  const char* end = std::from_chars(text->data(), text->data() + text->size(), number).ptr;
  text->remove_prefix(size_t(end - text->data()) + 1);
  return number;
}

}  // namespace

absl::Status WithWireError(absl::Status status, const WireError& error) {
  status.SetPayload(kPayload,
                    absl::Cord(fmt::format("{}\n{}\n{}", error.http_status,
                                           error.retry_after_s.value_or(-1), error.body)));
  return status;
}

std::optional<WireError> FindWireError(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  if (!payload.has_value()) return std::nullopt;
  const std::string text(*payload);
  std::string_view left = text;
  WireError error;
  error.http_status = TakeNumber(&left);
  if (const int seconds = TakeNumber(&left); seconds >= 0) error.retry_after_s = seconds;
  error.body = left;
  return error;
}

int RetryAfterSeconds(const absl::Status& status) {
  const std::optional<WireError> error = FindWireError(status);
  return error.has_value() ? error->retry_after_s.value_or(0) : 0;
}

}  // namespace hostler
