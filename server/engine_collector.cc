#include "server/engine_collector.h"

#include <array>
#include <string>
#include <utility>

namespace hostler {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct EngineMetric {
  const char* name;
  MetricType type;
  const char* help;
  double (*read)(const EngineStats& stats);
};

constexpr MetricType kGauge = MetricType::Gauge;
constexpr MetricType kCounter = MetricType::Counter;

constexpr std::array kEngineMetrics = {
    EngineMetric{"hostler:num_requests_running", kGauge, "Sequences in the batch.",
                 [](const EngineStats& s) { return double(s.running); }},
    EngineMetric{"hostler:num_requests_waiting", kGauge, "Sequences queued.",
                 [](const EngineStats& s) { return double(s.waiting); }},
    EngineMetric{"hostler:num_requests_paused", kGauge,
                 "Running sequences whose client reads slowly.",
                 [](const EngineStats& s) { return double(s.paused); }},
    EngineMetric{"hostler:kv_cache_usage_perc", kGauge, "KV blocks in use; 1 is all of them.",
                 [](const EngineStats& s) {
                   return s.kv_blocks_total > 0 ? double(s.kv_blocks_used) / s.kv_blocks_total : 0;
                 }},
    EngineMetric{"hostler:kv_blocks_used", kGauge, "KV blocks in use.",
                 [](const EngineStats& s) { return double(s.kv_blocks_used); }},
    EngineMetric{"hostler:kv_blocks_total", kGauge, "KV blocks there are.",
                 [](const EngineStats& s) { return double(s.kv_blocks_total); }},
    EngineMetric{"hostler:prompt_tokens_total", kCounter,
                 "Prompt tokens prefilled, recomputation included.",
                 [](const EngineStats& s) { return double(s.prompt_tokens); }},
    EngineMetric{"hostler:generation_tokens_total", kCounter, "Tokens generated.",
                 [](const EngineStats& s) { return double(s.generated_tokens); }},
    EngineMetric{"hostler:num_preemptions_total", kCounter,
                 "Sequences that lost their KV blocks to another.",
                 [](const EngineStats& s) { return double(s.preemptions); }},
    EngineMetric{"hostler:engine_steps_total", kCounter, "Steps computed.",
                 [](const EngineStats& s) { return double(s.steps); }},
    EngineMetric{"hostler:engine_step_seconds_total", kCounter, "Time spent in steps.",
                 [](const EngineStats& s) { return s.step_seconds; }},
    EngineMetric{"hostler:expert_cache_hits_total", kCounter,
                 "Experts that were resident when a step asked for them.",
                 [](const EngineStats& s) { return double(s.experts.hits); }},
    EngineMetric{"hostler:expert_cache_misses_total", kCounter,
                 "Experts that had to be read when a step asked for them.",
                 [](const EngineStats& s) { return double(s.experts.misses); }},
    EngineMetric{"hostler:expert_cache_evictions_total", kCounter, "Experts evicted.",
                 [](const EngineStats& s) { return double(s.experts.evictions); }},
    EngineMetric{"hostler:expert_cache_read_bytes_total", kCounter, "Expert bytes read.",
                 [](const EngineStats& s) { return double(s.experts.read_bytes); }},
    EngineMetric{"hostler:expert_cache_read_errors_total", kCounter, "Expert reads that failed.",
                 [](const EngineStats& s) { return double(s.experts.read_errors); }},
    EngineMetric{"hostler:expert_cache_stall_seconds_total", kCounter,
                 "Time steps waited for experts with nothing to compute.",
                 [](const EngineStats& s) { return s.experts.stall_seconds; }},
    EngineMetric{"hostler:expert_cache_resident_bytes", kGauge, "Expert bytes in slots.",
                 [](const EngineStats& s) { return double(s.experts.resident_bytes); }},
    EngineMetric{"hostler:expert_cache_capacity_bytes", kGauge, "Bytes of all slots.",
                 [](const EngineStats& s) { return double(s.experts.capacity_bytes); }},
    EngineMetric{"hostler:expert_cache_pinned_slots", kGauge, "Slots that a step holds.",
                 [](const EngineStats& s) { return double(s.experts.pinned_slots); }},
};

}  // namespace

std::vector<MetricFamily> CollectEngines(const Router& router) {
  std::vector<std::pair<std::string, EngineStats>> engines;
  for (const auto& target : router.targets()) {
    if (Engine* engine = target->engine()) engines.emplace_back(target->name(), engine->stats());
  }
  std::vector<MetricFamily> families;
  for (const EngineMetric& metric : kEngineMetrics) {
    MetricFamily family{metric.name, metric.help, metric.type, {}};
    for (const auto& [name, stats] : engines) {
      ClientMetric sample;
      sample.label = {{"model_name", name}};
      (metric.type == kGauge ? sample.gauge.value : sample.counter.value) = metric.read(stats);
      family.metric.push_back(std::move(sample));
    }
    families.push_back(std::move(family));
  }
  return families;
}

}  // namespace hostler
