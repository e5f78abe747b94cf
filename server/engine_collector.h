// Engines' counters as Prometheus metrics, read when scraped.
#pragma once

#include <vector>

#include "prometheus/metric_family.h"
#include "router/router.h"

namespace hostler {

// One family for each number in EngineStats and MemoryPlan, one metric in it for
// each target with an engine here, labelled model_name; and CollectExperts'.
std::vector<prometheus::MetricFamily> CollectEngines(const Router& router);

}  // namespace hostler
