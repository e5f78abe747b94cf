// The expert cache's metrics: by tier, class of read and layer.
#pragma once

#include <span>
#include <vector>

#include "prometheus/metric_family.h"
#include "server/engine_snapshot.h"

namespace hostler {

// One metric or more in each family for every engine that has experts, labelled
// model_name and tier.
std::vector<prometheus::MetricFamily> CollectExperts(std::span<const EngineSnapshot> engines);

}  // namespace hostler
