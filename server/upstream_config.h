// The YAML of upstreams and prices.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "router/target.h"
#include "router/upstream/options.h"
#include "server/yaml_map.h"

namespace hostler {

// price: {input, output}. Both must be there. Errors, here and below:
// InvalidArgument with file, line and key.
absl::Status ReadPrice(const YamlValue& value, std::optional<Price>* price);

// One entry of `upstreams`; not whether its URL and key are any good (see
// CheckUpstream).
absl::Status ReadUpstream(const YamlMap& map, UpstreamOptions* upstream);

}  // namespace hostler
