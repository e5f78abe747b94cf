// Status helpers that every layer above shares.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

#define HOSTLER_RETURN_IF_ERROR(expr)                                                   \
  do {                                                                                  \
    if (absl::Status status_macro_ = (expr); !status_macro_.ok()) return status_macro_; \
  } while (0)

#define HOSTLER_CONCAT_INNER_(a, b) a##b
#define HOSTLER_CONCAT_(a, b) HOSTLER_CONCAT_INNER_(a, b)

// HOSTLER_ASSIGN_OR_RETURN(auto x, MakeX());
#define HOSTLER_ASSIGN_OR_RETURN(lhs, expr)                          \
  auto HOSTLER_CONCAT_(statusor_, __LINE__) = (expr);                \
  if (!HOSTLER_CONCAT_(statusor_, __LINE__).ok())                    \
    return std::move(HOSTLER_CONCAT_(statusor_, __LINE__)).status(); \
  lhs = *std::move(HOSTLER_CONCAT_(statusor_, __LINE__))

namespace hostler {

// InvalidArgument that names the request field at fault ("max_tokens",
// "messages[2].content"). Front ends report the field as OpenAI's `param`.
absl::Status FieldError(std::string_view field, std::string_view message);

// The field of a FieldError, or "" for any other status.
std::string ErrorField(const absl::Status& status);

}  // namespace hostler
