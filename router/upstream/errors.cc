#include "router/upstream/errors.h"

#include <time.h>

#include <algorithm>
#include <charconv>
#include <ctime>

#include "engine/base/wire_error.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr int kBadGateway = 502;
constexpr size_t kMaxMessageBytes = 500;

absl::StatusCode CodeOf(int status) {
  if (status == 404) return absl::StatusCode::kNotFound;
  if (status == 408 || status == 504) return absl::StatusCode::kDeadlineExceeded;
  if (status == 429) return absl::StatusCode::kResourceExhausted;
  if (status == 501) return absl::StatusCode::kUnimplemented;
  if (status >= 400 && status < 500) return absl::StatusCode::kInvalidArgument;
  return absl::StatusCode::kUnavailable;
}

// error.message, or error itself where it is a text.
std::string Message(const Json& error) {
  const Json* message = error.is_string() ? &error : FindKey(error, "message");
  if (message == nullptr || !message->is_string()) return "it reports an error";
  return message->get<std::string>().substr(0, kMaxMessageBytes);
}

std::string InWords(const HttpFailure& failure) {
  if (failure.status >= 300 && failure.status < 400) {
    return fmt::format("HTTP {}, a redirect, which is not followed", failure.status);
  }
  const std::string type = failure.content_type.substr(0, failure.content_type.find(';'));
  return failure.body.empty()
             ? fmt::format("HTTP {} without a body", failure.status)
             : fmt::format("HTTP {} with {:.100}", failure.status, type.empty() ? "text" : type);
}

}  // namespace

UpstreamFailure HttpFailureKind(int status) {
  if (status == 401 || status == 403) return UpstreamFailure::kCredentials;
  if (status == 429) return UpstreamFailure::kRateLimit;
  if (status == 408 || status == 504) return UpstreamFailure::kTimeout;
  if (status >= 400 && status < 500) return UpstreamFailure::kRequest;
  return UpstreamFailure::kServer;
}

absl::Status BadAnswer(const std::string& upstream, std::string_view what) {
  return WithWireError(absl::UnavailableError(fmt::format("upstream \"{}\" {}", upstream, what)),
                       {.http_status = kBadGateway, .body = "", .retry_after_s = std::nullopt});
}

absl::Status HttpError(const std::string& upstream, const HttpFailure& failure, bool own_key) {
  const bool is_error = failure.status >= 400 && failure.status < 600;
  if (own_key && HttpFailureKind(failure.status) == UpstreamFailure::kCredentials) {
    return BadAnswer(upstream,
                     fmt::format("refused this server's credentials (HTTP {})", failure.status));
  }
  const absl::StatusOr<Json> json = ParseJson(failure.body);
  if (!is_error || !json.ok() || !json->is_object()) {
    absl::Status status = BadAnswer(upstream, "answered " + InWords(failure));
    if (!is_error) return status;
    return WithWireError(absl::Status(CodeOf(failure.status), status.message()),
                         {failure.status, "", failure.retry_after_s});
  }
  const Json* error = FindKey(*json, "error");
  const std::string message = Message(error == nullptr ? *json : *error);
  return WithWireError(
      absl::Status(CodeOf(failure.status), fmt::format("upstream \"{}\" answered HTTP {}: {}",
                                                       upstream, failure.status, message)),
      {failure.status, failure.body, failure.retry_after_s});
}

absl::Status ReportedError(const std::string& upstream, const Json& error, std::string_view json) {
  int status = kBadGateway;
  if (const Json* code = FindKey(error, "code"); code != nullptr && code->is_number_integer()) {
    const auto number = code->get<int64_t>();
    if (number >= 400 && number < 600) status = int(number);
  }
  return WithWireError(absl::Status(CodeOf(status), fmt::format("upstream \"{}\" reports: {}",
                                                                upstream, Message(error))),
                       {status, std::string(json), std::nullopt});
}

std::optional<int> ParseRetryAfter(std::string_view value) {
  constexpr int kLongest = 24 * 3600;
  int seconds = 0;
  const auto [end, ec] = std::from_chars(value.data(), value.data() + value.size(), seconds);
  if (ec == std::errc() && seconds >= 0) return std::min(seconds, kLongest);
  if (ec == std::errc::result_out_of_range && !value.starts_with('-')) return kLongest;
  std::tm date = {};
  if (strptime(std::string(value).c_str(), "%a, %d %b %Y %H:%M:%S GMT", &date) == nullptr) {
    return std::nullopt;
  }
  return int(std::clamp<int64_t>(timegm(&date) - std::time(nullptr), 0, kLongest));
}

}  // namespace hostler
