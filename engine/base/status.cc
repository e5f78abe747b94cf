#include "engine/base/status.h"

#include "absl/strings/cord.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr char kFieldPayload[] = "hostler/field";

}  // namespace

absl::Status FieldError(std::string_view field, std::string_view message) {
  absl::Status status = absl::InvalidArgumentError(fmt::format("{}: {}", field, message));
  status.SetPayload(kFieldPayload, absl::Cord(std::string(field)));
  return status;
}

std::string ErrorField(const absl::Status& status) {
  auto payload = status.GetPayload(kFieldPayload);
  return payload.has_value() ? std::string(*payload) : std::string();
}

}  // namespace hostler
