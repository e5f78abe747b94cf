#include "server/engine_collector.h"

#include <array>
#include <span>
#include <string>
#include <utility>

#include "server/engine_snapshot.h"
#include "server/expert_collector.h"

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
    EngineMetric{"hostler:kv_blocks_cached", kGauge,
                 "KV blocks that nobody uses and that hold what may be found again.",
                 [](const EngineStats& s) { return double(s.kv_blocks_cached); }},
    EngineMetric{"hostler:prefix_cache_queries_total", kCounter,
                 "Prompt tokens that were looked for in the prefix cache.",
                 [](const EngineStats& s) { return double(s.prefix_queried_tokens); }},
    EngineMetric{"hostler:prefix_cache_hits_total", kCounter,
                 "Prompt tokens that were found in the prefix cache.",
                 [](const EngineStats& s) { return double(s.prefix_found_tokens); }},
    EngineMetric{"hostler:prefix_cache_evictions_total", kCounter,
                 "Cached KV blocks that were given up for a free one.",
                 [](const EngineStats& s) { return double(s.prefix_evictions); }},
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
    EngineMetric{"hostler:decode_width", kGauge,
                 "Sequences that generated in the last step that had any.",
                 [](const EngineStats& s) { return double(s.schedule.width); }},
    EngineMetric{"hostler:decode_slices_total", kCounter,
                 "Turns that ended where fewer sequences decode than could.",
                 [](const EngineStats& s) { return double(s.schedule.slices); }},
    EngineMetric{"hostler:decode_width_probes_total", kCounter, "Other widths that were tried.",
                 [](const EngineStats& s) { return double(s.schedule.probes); }},
    EngineMetric{"hostler:decode_longest_wait_seconds", kGauge,
                 "Longest time since the start that a running sequence stood between two steps.",
                 [](const EngineStats& s) { return s.schedule.longest_wait_seconds; }},
};

ClientMetric Sample(MetricType type, double value, std::vector<ClientMetric::Label> labels) {
  ClientMetric sample;
  sample.label = std::move(labels);
  (type == kGauge ? sample.gauge.value : sample.counter.value) = value;
  return sample;
}

using Parts = std::vector<std::pair<const char*, uint64_t>>;

void AddParts(const std::string& model, const Parts& parts, MetricFamily* family) {
  for (const auto& [part, bytes] : parts) {
    family->metric.push_back(
        Sample(kGauge, double(bytes), {{"model_name", model}, {"part", part}}));
  }
}

void CollectMemory(std::span<const EngineSnapshot> engines, std::vector<MetricFamily>* families) {
  MetricFamily parts{"hostler:memory_bytes",
                     "Memory given to each part of the model, of the GPU where one computes.",
                     kGauge,
                     {}};
  MetricFamily budgets{"hostler:memory_budget_bytes", "Memory that the parts divide.", kGauge, {}};
  MetricFamily host_parts{"hostler:host_memory_bytes",
                          "Of models on a GPU: memory of the host given to each part.",
                          kGauge,
                          {}};
  MetricFamily host_budgets{"hostler:host_memory_budget_bytes",
                            "Of models on a GPU: memory that those parts divide.",
                            kGauge,
                            {}};
  MetricFamily devices{"hostler:device", "1: what computes the model.", kGauge, {}};
  for (const EngineSnapshot& engine : engines) {
    const MemoryPlan& memory = engine.memory;
    AddParts(engine.model,
             {{"weights", memory.weights},
              {"work_space", memory.work_space},
              {"kv", memory.kv},
              {"experts", memory.experts}},
             &parts);
    budgets.metric.push_back(Sample(kGauge, double(memory.budget), {{"model_name", engine.model}}));
    const bool on_gpu = !memory.device.empty();
    devices.metric.push_back(Sample(
        kGauge, 1, {{"model_name", engine.model}, {"device", on_gpu ? memory.device : "cpu"}}));
    if (!on_gpu) continue;
    AddParts(engine.model,
             {{"work_space", memory.host_work_space}, {"experts", memory.host_experts}},
             &host_parts);
    host_budgets.metric.push_back(
        Sample(kGauge, double(memory.host_budget), {{"model_name", engine.model}}));
  }
  for (MetricFamily* family : {&parts, &budgets, &host_parts, &host_budgets, &devices}) {
    families->push_back(std::move(*family));
  }
}

}  // namespace

std::vector<MetricFamily> CollectEngines(const Router& router) {
  const std::vector<EngineSnapshot> engines = TakeSnapshots(router);
  std::vector<MetricFamily> families;
  for (const EngineMetric& metric : kEngineMetrics) {
    MetricFamily family{metric.name, metric.help, metric.type, {}};
    for (const EngineSnapshot& engine : engines) {
      family.metric.push_back(
          Sample(metric.type, metric.read(engine.stats), {{"model_name", engine.model}}));
    }
    families.push_back(std::move(family));
  }
  CollectMemory(engines, &families);
  for (MetricFamily& family : CollectExperts(engines)) families.push_back(std::move(family));
  return families;
}

}  // namespace hostler
