#include "server/upstream_collector.h"

#include <limits>
#include <string>
#include <utility>

#include "server/metric_family.h"

namespace hostler {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct Upstream {
  MetricFamilyBuilder::Labels labels;
  TargetSnapshot now;
  UpstreamStats stats;
};

using Family = MetricFamilyBuilder;

struct Number {
  const char* name;
  MetricType type;
  const char* help;
  double (*read)(const Upstream& upstream);
};

constexpr Number kNumbers[] = {
    {"requests_running", MetricType::Gauge, "Requests under way at the upstream.",
     [](const Upstream& u) { return double(u.now.running); }},
    {"requests_waiting", MetricType::Gauge, "Requests that wait for their turn.",
     [](const Upstream& u) { return double(u.now.waiting); }},
    {"requests_total", MetricType::Counter, "Requests that were sent.",
     [](const Upstream& u) { return double(u.stats.requests); }},
    {"requests_succeeded_total", MetricType::Counter, "Requests whose answer came whole.",
     [](const Upstream& u) { return double(u.stats.succeeded); }},
    {"connections_total", MetricType::Counter, "Connections opened for requests.",
     [](const Upstream& u) { return double(u.stats.connections); }},
    {"retries_total", MetricType::Counter,
     "Requests sent anew because a kept connection had been closed.",
     [](const Upstream& u) { return double(u.stats.retries); }},
    {"ejections_total", MetricType::Counter, "Times it was taken out of use.",
     [](const Upstream& u) { return double(u.stats.ejections); }},
    {"checks_total", MetricType::Counter, "Health checks.",
     [](const Upstream& u) { return double(u.stats.checks); }},
    {"checks_failed_total", MetricType::Counter, "Health checks that failed.",
     [](const Upstream& u) { return double(u.stats.failed_checks); }},
    {"cost_usd_total", MetricType::Counter, "Tokens times their price.",
     [](const Upstream& u) { return u.stats.cost_usd; }},
    {"usage_estimated_total", MetricType::Counter,
     "Answers whose tokens were estimated, as the upstream did not tell them.",
     [](const Upstream& u) { return double(u.stats.estimated_usages); }},
};

MetricFamily CollectErrors(const std::vector<Upstream>& upstreams) {
  Family family("upstream_errors_total", MetricType::Counter,
                "Requests that failed, by what failed.");
  for (const Upstream& upstream : upstreams) {
    for (size_t i = 0; i < kUpstreamFailures; ++i) {
      family.Add(upstream.labels, double(upstream.stats.errors[i]),
                 {{"reason", UpstreamFailureName(UpstreamFailure(i))}});
    }
  }
  return family.Take();
}

MetricFamily CollectTokens(const std::vector<Upstream>& upstreams) {
  Family family("upstream_tokens_total", MetricType::Counter,
                "Tokens that the upstream counted; cached is a part of prompt.");
  for (const Upstream& upstream : upstreams) {
    const UpstreamStats& stats = upstream.stats;
    family.Add(upstream.labels, double(stats.prompt_tokens), {{"kind", "prompt"}});
    family.Add(upstream.labels, double(stats.cached_prompt_tokens), {{"kind", "cached"}});
    family.Add(upstream.labels, double(stats.completion_tokens), {{"kind", "completion"}});
  }
  return family.Take();
}

MetricFamily CollectHealth(const std::vector<Upstream>& upstreams) {
  constexpr std::pair<Health, const char*> kStates[] = {{Health::kHealthy, "healthy"},
                                                        {Health::kProbing, "probing"},
                                                        {Health::kEjected, "ejected"},
                                                        {Health::kThrottled, "throttled"}};
  Family family("upstream_health", MetricType::Gauge, "1 for the state it is in.");
  for (const Upstream& upstream : upstreams) {
    for (const auto& [health, name] : kStates) {
      family.Add(upstream.labels, upstream.now.health == health, {{"state", name}});
    }
  }
  return family.Take();
}

MetricFamily CollectLatency(const std::vector<Upstream>& upstreams, const char* name,
                            const char* help, UpstreamLatency UpstreamStats::*latency) {
  Family family(std::string("upstream_") + name, MetricType::Histogram, help);
  for (const Upstream& upstream : upstreams) {
    const UpstreamLatency& times = upstream.stats.*latency;
    ClientMetric::Histogram& histogram = family.Add(upstream.labels).histogram;
    for (size_t i = 0; i < times.counts.size(); ++i) {
      histogram.sample_count += times.counts[i];
      const bool last = i == UpstreamLatency::kBounds.size();
      histogram.bucket.push_back(
          {histogram.sample_count,
           last ? std::numeric_limits<double>::infinity() : UpstreamLatency::kBounds[i]});
    }
    histogram.sample_sum = times.sum;
  }
  return family.Take();
}

}  // namespace

std::vector<MetricFamily> CollectUpstreams(const Router& router) {
  std::vector<Upstream> upstreams;
  for (const auto& target : router.targets()) {
    if (const std::optional<UpstreamStats> stats = target->upstream_stats()) {
      upstreams.push_back({{{"model_name", target->name()}}, target->snapshot(), *stats});
    }
  }
  if (upstreams.empty()) return {};
  std::vector<MetricFamily> families;
  for (const Number& number : kNumbers) {
    Family family(std::string("upstream_") + number.name, number.type, number.help);
    for (const Upstream& upstream : upstreams) family.Add(upstream.labels, number.read(upstream));
    families.push_back(family.Take());
  }
  families.push_back(CollectErrors(upstreams));
  families.push_back(CollectTokens(upstreams));
  families.push_back(CollectHealth(upstreams));
  families.push_back(CollectLatency(upstreams, "time_to_first_token_seconds",
                                    "From sending a request to its first token.",
                                    &UpstreamStats::first_token));
  families.push_back(CollectLatency(upstreams, "request_seconds",
                                    "From sending a request to its answer's end.",
                                    &UpstreamStats::total));
  return families;
}

}  // namespace hostler
