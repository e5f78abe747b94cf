// hostler:upstream_*: what targets on other servers count.
#pragma once

#include <vector>

#include "prometheus/metric_family.h"
#include "router/router.h"

namespace hostler {

// By model_name; empty without such targets.
std::vector<prometheus::MetricFamily> CollectUpstreams(const Router& router);

}  // namespace hostler
