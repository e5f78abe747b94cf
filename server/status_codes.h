// What a status means to clients: one table for HTTP, gRPC and OpenAI's error
// object.
#pragma once

#include <array>
#include <string_view>

#include "absl/status/status.h"

namespace hostler {

struct StatusMapping {
  absl::StatusCode code;
  int http;
  int grpc;               // grpc::StatusCode
  std::string_view type;  // error.type of OpenAI's error object
  // error.code of the same object; "" is null there.
  std::string_view openai_code;
};

inline constexpr std::array<StatusMapping, 17> kStatusMappings = {{
    {absl::StatusCode::kOk, 200, 0, "", ""},
    {absl::StatusCode::kCancelled, 499, 1, "cancelled_error", ""},
    {absl::StatusCode::kUnknown, 500, 2, "server_error", ""},
    {absl::StatusCode::kInvalidArgument, 400, 3, "invalid_request_error", ""},
    {absl::StatusCode::kDeadlineExceeded, 504, 4, "timeout_error", ""},
    {absl::StatusCode::kNotFound, 404, 5, "invalid_request_error", "model_not_found"},
    {absl::StatusCode::kAlreadyExists, 409, 6, "invalid_request_error", ""},
    {absl::StatusCode::kPermissionDenied, 403, 7, "permission_error", ""},
    {absl::StatusCode::kResourceExhausted, 429, 8, "rate_limit_error", "rate_limit_exceeded"},
    {absl::StatusCode::kFailedPrecondition, 400, 9, "invalid_request_error", ""},
    {absl::StatusCode::kAborted, 409, 10, "server_error", ""},
    {absl::StatusCode::kOutOfRange, 400, 11, "invalid_request_error", ""},
    {absl::StatusCode::kUnimplemented, 501, 12, "invalid_request_error", "not_implemented"},
    {absl::StatusCode::kInternal, 500, 13, "server_error", ""},
    {absl::StatusCode::kUnavailable, 503, 14, "service_unavailable_error", ""},
    {absl::StatusCode::kDataLoss, 500, 15, "server_error", ""},
    {absl::StatusCode::kUnauthenticated, 401, 16, "authentication_error", "invalid_api_key"},
}};

// A code outside the table is treated as kUnknown.
constexpr const StatusMapping& MapStatus(absl::StatusCode code) {
  for (const StatusMapping& mapping : kStatusMappings) {
    if (mapping.code == code) return mapping;
  }
  return kStatusMappings[2];
}

}  // namespace hostler
