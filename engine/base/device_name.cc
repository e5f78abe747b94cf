#include "engine/base/device_name.h"

#include <charconv>

#include "fmt/format.h"

namespace hostler {

absl::StatusOr<DeviceName> ParseDeviceName(std::string_view text) {
  using Kind = DeviceName::Kind;
  if (text == "cpu") return DeviceName{Kind::kCpu};
  if (text == "cuda") return DeviceName{Kind::kCuda};
  if (text == "cuda-emulated") return DeviceName{Kind::kEmulated};
  if (text == "auto") return DeviceName{Kind::kAuto};
  constexpr std::string_view kNumbered = "cuda:";
  if (text.starts_with(kNumbered)) {
    DeviceName name{Kind::kCuda};
    const char* end = text.data() + text.size();
    const auto [last, error] = std::from_chars(text.data() + kNumbered.size(), end, name.index);
    if (error == std::errc() && last == end && name.index >= 0) return name;
  }
  return absl::InvalidArgumentError(fmt::format("\"{}\" is none of cpu, cuda, cuda:N, auto", text));
}

}  // namespace hostler
