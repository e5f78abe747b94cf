// The address of an upstream's API.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace hostler {

struct UpstreamUrl {
  bool tls = false;
  std::string host;  // a name or an address, without brackets
  int port = 0;
  std::string base;  // path that endpoints follow: "/v1", without a "/" at its end

  // For the Host header: the port only where it is not the scheme's own.
  std::string Authority() const;
};

// Errors: InvalidArgument for anything but http(s)://HOST[:PORT][/PATH].
absl::StatusOr<UpstreamUrl> ParseUpstreamUrl(const std::string& text);

}  // namespace hostler
