// The names of what may compute, as settings have them.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"

namespace hostler {

struct DeviceName {
  enum class Kind {
    kCpu,
    kCuda,      // "cuda" is "cuda:0"
    kEmulated,  // "cuda-emulated": CUDA on the host, slow, for tests
    kAuto,      // a GPU if there is one that will do
  };
  Kind kind = Kind::kCpu;
  int index = 0;  // of the GPU

  friend bool operator==(const DeviceName&, const DeviceName&) = default;
};

// Errors: InvalidArgument.
absl::StatusOr<DeviceName> ParseDeviceName(std::string_view text);

}  // namespace hostler
