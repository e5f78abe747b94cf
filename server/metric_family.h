// MetricFamilyBuilder: one family of metrics, as a scrape reads it off other counts.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "prometheus/metric_family.h"

namespace hostler {

class MetricFamilyBuilder {
 public:
  using Labels = std::vector<prometheus::ClientMetric::Label>;

  // `name` without "hostler:".
  MetricFamilyBuilder(const std::string& name, prometheus::MetricType type, std::string help)
      : family_{"hostler:" + name, std::move(help), type, {}} {}

  // With the labels of both, to be filled in.
  prometheus::ClientMetric& Add(const Labels& labels, const Labels& more = {}) {
    prometheus::ClientMetric& metric = family_.metric.emplace_back();
    metric.label = labels;
    metric.label.insert(metric.label.end(), more.begin(), more.end());
    return metric;
  }
  // Of a gauge or counter.
  void Add(const Labels& labels, double value, const Labels& more = {}) {
    prometheus::ClientMetric& metric = Add(labels, more);
    const bool gauge = family_.type == prometheus::MetricType::Gauge;
    (gauge ? metric.gauge.value : metric.counter.value) = value;
  }
  prometheus::MetricFamily Take() { return std::move(family_); }

 private:
  prometheus::MetricFamily family_;
};

}  // namespace hostler
